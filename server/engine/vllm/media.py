"""Fetches images, audio and video that requests name by URL: from public addresses, or from the allowed domains.

Without ``--allowed-media-domains``, vLLM fetches any URL, such as one of the own network or of a cloud's metadata
service. Here a name leads to its public addresses alone, and each connection is checked once more when it is made, so
that neither a redirect, nor an address in place of a name, nor a second look-up leads elsewhere. Domains that the
operator allows may have any address. Where the environment names a proxy, the proxy decides what it connects to.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Set
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import getproxies

import aiohttp
from aiohttp.abc import ResolveResult
from vllm.connections import HTTPConnection
from vllm.exceptions import VLLMValidationError
from vllm.multimodal.media import MEDIA_CONNECTOR_REGISTRY, MediaConnector

from adapters.sources.public_address import is_public
from server.engine.vllm.environment import MEDIA_CONNECTOR

AddressInfo = tuple[int, int, int, str, tuple[Any, ...]]
Endpoint = tuple[str, int]
"""An IP address and a port."""
_PORTS: Final = {"http": 80, "https": 443}


class PublicResolver(aiohttp.ThreadedResolver):
    """Resolves names to their public addresses, and those of ``proxies``."""

    def __init__(self, proxies: Set[Endpoint]) -> None:
        super().__init__()
        self._proxies = proxies

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of ``host``; VLLMValidationError if none of them is allowed."""
        found = await super().resolve(host, port, family)
        allowed = [each for each in found if _is_allowed((each["host"], port), self._proxies)]
        if not allowed:
            raise _refusal(host)
        return allowed


class PublicConnection(HTTPConnection):  # type: ignore[misc]  # vLLM has no types here
    """HTTP to public addresses, and to the proxies of the environment, wherever they are."""

    _async_client: aiohttp.ClientSession | None

    async def get_async_client(self) -> aiohttp.ClientSession:
        """Return the session that every fetch uses."""
        if self._async_client is None:
            proxies = await _proxies()

            def connect(info: AddressInfo) -> socket.socket:
                family, kind, protocol, _, (address, port, *_) = info
                if not _is_allowed((address, port), proxies):
                    raise _refusal(address)
                return socket.socket(family, kind, protocol)

            connector = aiohttp.TCPConnector(socket_factory=connect, resolver=PublicResolver(proxies))
            self._async_client = aiohttp.ClientSession(connector=connector, trust_env=True)
        return self._async_client

    def get_bytes(self, url: str, **options: Any) -> bytes:
        """Fetch as ``async_get_bytes`` does, for those of vLLM's renderers that run in a thread."""

        async def fetch() -> bytes:
            connection = PublicConnection()
            try:
                content: bytes = await connection.async_get_bytes(url, **options)
                return content
            finally:
                await (await connection.get_async_client()).close()

        return asyncio.run(fetch())

    def get_sync_client(self) -> Any:
        """Refuse: what this client fetches could not be checked."""
        raise NotImplementedError("media are fetched by get_bytes and async_get_bytes alone")


_public = PublicConnection()


class PublicMediaConnector(MediaConnector):  # type: ignore[misc]  # likewise
    """vLLM's connector, which connects to public addresses alone unless domains are allowed."""

    def __init__(self, *args: Any, allowed_media_domains: list[str] | None = None, **options: Any) -> None:
        super().__init__(*args, allowed_media_domains=allowed_media_domains, **options)
        if not self.allowed_media_domains:
            self.connection = _public


def register() -> None:
    """Let vLLM find the connector by the name in its environment."""
    MEDIA_CONNECTOR_REGISTRY.register(MEDIA_CONNECTOR)(PublicMediaConnector)


def _is_allowed(endpoint: Endpoint, proxies: Set[Endpoint]) -> bool:
    return endpoint in proxies or is_public(endpoint[0].partition("%")[0])


def _refusal(host: str) -> VLLMValidationError:
    return VLLMValidationError(
        f"The URL leads to {host}, which is not on the public internet. Send the media as a data URL, or have the "
        "server started with its host in --allowed-media-domains"
    )


async def _proxies() -> frozenset[Endpoint]:
    loop = asyncio.get_running_loop()
    found: set[Endpoint] = set()
    for proxy in map(urlsplit, getproxies().values()):
        try:
            infos = await loop.getaddrinfo(proxy.hostname, proxy.port or _PORTS.get(proxy.scheme, 80))
        except OSError:  # no request gets through that proxy
            continue
        found.update((str(info[4][0]), int(info[4][1])) for info in infos)
    return frozenset(found)
