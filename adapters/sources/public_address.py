"""Tells addresses of the public internet from those of the own network."""

import ipaddress
from collections.abc import Iterator
from typing import Final

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
"""RFC 6052: the last four bytes are the IPv4 address that a gateway connects to."""
_PROTOCOL_ASSIGNMENTS: Final = ipaddress.IPv4Network("192.0.0.0/24")
"""RFC 6890; Python counts some of them as public."""


def is_public(address: str) -> bool:
    """Return whether an IP address, and each one that it leads to, is on the public internet."""
    parsed = ipaddress.ip_address(address)
    return all(
        each.is_global and not each.is_multicast and each not in _PROTOCOL_ASSIGNMENTS for each in _reached(parsed)
    )


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
