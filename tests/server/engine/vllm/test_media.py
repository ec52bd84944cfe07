"""Media that requests name by URL come from public addresses, or from domains that the operator allows."""

from __future__ import annotations

import asyncio
import io
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from PIL import Image
from vllm.connections import HTTPConnection
from vllm.exceptions import VLLMClientError, VLLMValidationError
from vllm.multimodal.media import MEDIA_CONNECTOR_REGISTRY, MediaConnector

from server.engine.vllm import environment, media

MakeConnector = Callable[..., MediaConnector]
Fetch = Callable[[MediaConnector, str], Awaitable[Any]]


@dataclass
class ImageServer:
    """Serves a picture on loopback, and redirects to it."""

    port: int = 0
    paths: list[str] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.paths.append(request.path)
        if request.path == "/redirect":
            raise web.HTTPFound(f"http://127.0.0.1:{self.port}/picture.png")
        picture = io.BytesIO()
        Image.new("RGB", (2, 3)).save(picture, "PNG")
        return web.Response(body=picture.getvalue(), content_type="image/png")


@pytest.fixture
async def images() -> AsyncIterator[ImageServer]:
    server = ImageServer()
    app = web.Application()
    app.router.add_get("/{path}", server.handle)
    async with TestServer(app, host="127.0.0.1") as running:
        assert running.port is not None
        server.port = running.port
        yield server


@pytest.fixture
async def connector() -> AsyncIterator[MakeConnector]:
    """Makes the connector that vLLM makes for a request, with a connection that ends with the test."""
    media.register()
    made: list[MediaConnector] = []

    def make(domains: list[str] | None = None) -> MediaConnector:
        found = MEDIA_CONNECTOR_REGISTRY.load(environment.MEDIA_CONNECTOR, allowed_media_domains=domains)
        assert isinstance(found, media.PublicMediaConnector)
        found.connection = HTTPConnection() if domains else media.PublicConnection()
        made.append(found)
        return found

    yield make
    for each in made:
        await (await each.connection.get_async_client()).close()


@pytest.fixture(params=["async", "in a thread"])
def fetch(request: pytest.FixtureRequest) -> Fetch:
    """Fetches an image in each of the two ways in which vLLM does."""

    async def fetched(connector: MediaConnector, url: str) -> Any:
        if request.param == "async":
            return await connector.fetch_image_async(url)
        return await asyncio.to_thread(connector.fetch_image, url)

    return fetched


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "two-addresses.test", "[::1]", "[::ffff:127.0.0.1]"])
async def test_an_address_of_the_own_network_is_refused_however_it_is_written(
    images: ImageServer, connector: MakeConnector, fetch: Fetch, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_up = socket.getaddrinfo

    def resolve(name: Any, port: Any, *more: Any, **options: Any) -> Any:
        if name != "two-addresses.test":
            return look_up(name, port, *more, **options)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in ("127.0.0.1", "10.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(VLLMValidationError, match="not on the public internet"):
        await fetch(connector(), f"http://{host}:{images.port}/picture.png")
    assert images.paths == []


@pytest.mark.parametrize("host", ["2130706433", "127.1", "0x7f.1"])
async def test_a_number_in_place_of_a_name_leads_nowhere(
    images: ImageServer, connector: MakeConnector, host: str
) -> None:
    with pytest.raises(VLLMClientError):
        await connector().fetch_image_async(f"http://{host}:{images.port}/picture.png")
    assert images.paths == []


async def test_the_metadata_service_of_a_cloud_is_refused(connector: MakeConnector, fetch: Fetch) -> None:
    with pytest.raises(VLLMValidationError, match=r"169\.254\.169\.254, which is not on the public internet"):
        await fetch(connector(), "http://169.254.169.254/latest/meta-data/")


async def test_a_domain_that_the_operator_allows_may_have_any_address(
    images: ImageServer, connector: MakeConnector, fetch: Fetch
) -> None:
    image = await fetch(connector(["localhost"]), f"http://localhost:{images.port}/picture.png")
    assert image.size == (2, 3)
    with pytest.raises(ValueError, match="one of the allowed domains"):
        await fetch(connector(["localhost"]), f"http://127.0.0.1:{images.port}/picture.png")


async def test_a_public_address_is_fetched_and_its_redirect_into_the_own_network_is_not(
    images: ImageServer, connector: MakeConnector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media, "is_public", lambda _: not images.paths)
    monkeypatch.setenv("VLLM_MEDIA_URL_ALLOW_REDIRECTS", "1")
    fetching = connector()
    with pytest.raises(VLLMValidationError, match="not on the public internet"):
        await fetching.fetch_image_async(f"http://localhost:{images.port}/redirect")
    assert images.paths == ["/redirect"]


async def test_a_proxy_of_the_environment_may_be_in_the_own_network(
    images: ImageServer, connector: MakeConnector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{images.port}")
    image = await connector().fetch_image_async("http://pictures.example/picture.png")
    assert image.size == (2, 3)


async def test_what_else_the_machine_of_the_proxy_has_is_refused(
    images: ImageServer, connector: MakeConnector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:3128")
    with pytest.raises(VLLMValidationError, match="not on the public internet"):
        await connector().fetch_image_async(f"http://127.0.0.1:{images.port}/picture.png")
    assert images.paths == []


def test_vllm_is_told_of_the_connector_unless_the_operator_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_MEDIA_CONNECTOR", raising=False)
    environment.prepare()
    assert environment.current()["VLLM_MEDIA_CONNECTOR"] == environment.MEDIA_CONNECTOR
