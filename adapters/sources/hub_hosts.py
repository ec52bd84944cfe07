"""The hosts that a hub may redirect to: itself and the public internet, never a private network of the server."""

from __future__ import annotations

import asyncio
import ipaddress
import socket

import httpx2
from huggingface_hub import is_offline_mode

from adapters.errors import SourceForbidden


class HubHosts:
    """Hooks for httpx2 clients of the hub at ``endpoint``, called before every request, redirected ones included.

    The operator chooses the endpoint, which may be anywhere. Hosts that the hub names, in a redirect or as an upload
    target, must be the endpoint's or have public addresses only, and https never changes to http. A name that cannot be
    resolved passes: only a proxy could resolve it, and without one nothing is sent.
    """

    def __init__(self, endpoint: str) -> None:
        self._home = httpx2.URL(endpoint)

    def check(self, request: httpx2.Request) -> None:
        """Check a request before it is sent; SourceForbidden if its host or scheme is not allowed."""
        if is_offline_mode():
            raise SourceForbidden("HF_HUB_OFFLINE forbids requests to the hub: unset it, or use files and directories")
        url = request.url
        if self._home.scheme == "https" and url.scheme != "https":
            raise SourceForbidden(f"the hub redirects to {url.scheme}://{url.host}, without encryption: not followed")
        if url.host != self._home.host and (private := _private_address(url.host)) is not None:
            raise SourceForbidden(
                f"the hub redirects to {url.host} ({private}), which is not on the public internet: not followed. "
                "Use a hub endpoint that keeps its files itself"
            )

    async def check_async(self, request: httpx2.Request) -> None:
        """As ``check``, without blocking the event loop while a name is resolved."""
        await asyncio.to_thread(self.check, request)


def _private_address(host: str) -> str | None:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError):
        return None
    addresses = {str(address[0]).partition("%")[0] for *_, address in found}
    return next((address for address in sorted(addresses) if not _is_public(address)), None)


def _is_public(address: str) -> bool:
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return parsed.is_global and not parsed.is_multicast
