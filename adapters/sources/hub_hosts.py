"""Where a hub may send us: to itself and to the public internet, never into the network that we stand in."""

from __future__ import annotations

import asyncio
import ipaddress
import socket

import httpx2
from huggingface_hub import is_offline_mode

from adapters.errors import SourceForbidden


class HubHosts:
    """Hooks for the httpx2 clients that ask the hub at ``endpoint``: each sees every request, redirected ones included.

    The endpoint is the operator's choice and may be anywhere. What the hub names itself, in a redirect or as a place to
    upload to, must be the endpoint's host or have public addresses only, and never leaves https for http. A name that
    cannot be resolved here passes: without a proxy, which may know it, nothing can be sent to it.
    """

    def __init__(self, endpoint: str) -> None:
        self._home = httpx2.URL(endpoint)

    def check(self, request: httpx2.Request) -> None:
        """Look at a request before it is sent.

        Raises:
            SourceForbidden: it must not be sent.
        """
        if is_offline_mode():
            raise SourceForbidden("HF_HUB_OFFLINE forbids to ask the hub: unset it, or use files and directories")
        url = request.url
        if self._home.scheme == "https" and url.scheme != "https":
            raise SourceForbidden(f"the hub sends us to {url.scheme}://{url.host}, without encryption: not followed")
        if url.host != self._home.host and (private := _private_address(url.host)) is not None:
            raise SourceForbidden(
                f"the hub sends us to {url.host} ({private}), which is not on the public internet: not followed. "
                "Use a hub endpoint that keeps its files itself"
            )

    async def check_async(self, request: httpx2.Request) -> None:
        """As ``check``, without holding the loop while a name is resolved."""
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
