"""Media that requests name by URL come from public addresses, or from domains that the operator allows."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from PIL import Image
from vllm.connections import HTTPConnection
from vllm.exceptions import VLLMClientError, VLLMValidationError
from vllm.multimodal.media import MEDIA_CONNECTOR_REGISTRY, MediaConnector

from server.engine.vllm import environment, media

MakeConnector = Callable[..., MediaConnector]


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


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "127.1"])
async def test_an_address_of_the_own_network_is_refused_however_it_is_written(
    images: ImageServer, connector: MakeConnector, host: str
) -> None:
    with pytest.raises(VLLMClientError, match=r"not on the public internet|Invalid URL"):
        await connector().fetch_image_async(f"http://{host}:{images.port}/picture.png")
    assert images.paths == []


async def test_the_metadata_service_of_a_cloud_is_refused(connector: MakeConnector) -> None:
    with pytest.raises(VLLMValidationError, match=r"169\.254\.169\.254, which is not on the public internet"):
        await connector().fetch_image_async("http://169.254.169.254/latest/meta-data/")


async def test_a_domain_that_the_operator_allows_may_have_any_address(
    images: ImageServer, connector: MakeConnector
) -> None:
    image = await connector(["localhost"]).fetch_image_async(f"http://localhost:{images.port}/picture.png")
    assert image.size == (2, 3)
    with pytest.raises(ValueError, match="one of the allowed domains"):
        await connector(["localhost"]).fetch_image_async(f"http://127.0.0.1:{images.port}/picture.png")


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


def test_vllm_is_told_of_the_connector_unless_the_operator_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_MEDIA_CONNECTOR", raising=False)
    environment.prepare()
    assert environment.current()["VLLM_MEDIA_CONNECTOR"] == environment.MEDIA_CONNECTOR
