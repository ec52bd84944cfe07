"""Fetches images, audio and video that requests name by URL: from public addresses, or from the allowed domains.

Without ``--allowed-media-domains``, vLLM fetches any URL, such as one of the own network or of a cloud's metadata
service. Here the address is checked when a connection to it is made, so that neither a redirect nor a name that
resolves to another address the second time leads elsewhere. Domains that the operator allows may have any address.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import aiohttp
from vllm.connections import HTTPConnection
from vllm.exceptions import VLLMValidationError
from vllm.multimodal.media import MEDIA_CONNECTOR_REGISTRY, MediaConnector

from adapters.sources.public_address import is_public
from server.engine.vllm.environment import MEDIA_CONNECTOR

AddressInfo = tuple[int, int, int, str, tuple[Any, ...]]


class PublicConnection(HTTPConnection):  # type: ignore[misc]  # vLLM has no types here
    """HTTP to public addresses, and to the proxies of the environment, wherever they are."""

    _async_client: aiohttp.ClientSession | None

    async def get_async_client(self) -> aiohttp.ClientSession:
        """Return the session that every fetch uses."""
        if self._async_client is None:
            proxies = await _addresses_of_proxies()

            def connect(info: AddressInfo) -> socket.socket:
                family, kind, protocol, _, (address, *_) = info
                if address not in proxies and not is_public(str(address).partition("%")[0]):
                    raise VLLMValidationError(
                        f"The URL leads to {address}, which is not on the public internet. Send the media as a data "
                        "URL, or have the server started with its host in --allowed-media-domains",
                    )
                return socket.socket(family, kind, protocol)

            connector = aiohttp.TCPConnector(socket_factory=connect)
            self._async_client = aiohttp.ClientSession(connector=connector, trust_env=True)
        return self._async_client


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


async def _addresses_of_proxies() -> frozenset[str]:
    hosts = {urlsplit(proxy).hostname for proxy in getproxies().values()} - {None}
    loop = asyncio.get_running_loop()
    found: set[str] = set()
    for host in hosts:
        try:
            infos = await loop.getaddrinfo(host, None)
        except OSError:  # no request gets through that proxy
            continue
        found.update(str(info[4][0]) for info in infos)
    return frozenset(found)
