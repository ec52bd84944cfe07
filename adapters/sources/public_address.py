"""Tells addresses of the public internet from those of the own network."""

import ipaddress
from collections.abc import Iterator
from typing import Final

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
"""RFC 6052: the last four bytes are the IPv4 address that a gateway connects to."""
_NOT_PUBLIC: Final = tuple(
    map(
        ipaddress.ip_network,
        (
            "192.0.0.0/24",  # RFC 6890, protocol assignments
            "168.63.129.16/32",  # Azure's platform services, in each of its virtual machines
            "64:ff9b:1::/48",  # RFC 8215, a network's own NAT64
            "::/96",  # RFC 4291, IPv4-compatible addresses
            "::ffff:0:0:0/96",  # RFC 2765, IPv4-translated addresses
            "fec0::/10",  # RFC 3879, site-local addresses
        ),
    )
)
"""Networks of which Python counts addresses as public."""


def is_public(address: str) -> bool:
    """Whether an IP address, and each one that it leads to, is on the public internet."""
    parsed = ipaddress.ip_address(address)
    return all(map(_is_alone_public, _reached(parsed)))


def _is_alone_public(address: IPAddress) -> bool:
    is_listed = any(address in network for network in _NOT_PUBLIC)
    return address.is_global and not address.is_multicast and not is_listed


def _reached(address: IPAddress) -> Iterator[IPAddress]:
    """Yield the address itself, and each IPv4 address that it leads to by a transition mechanism."""
    if not isinstance(address, ipaddress.IPv6Address):
        yield address
        return
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped
        return
    yield address
    if address in _NAT64:
        yield ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo
