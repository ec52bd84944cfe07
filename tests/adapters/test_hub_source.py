"""The hub source against a small hub on 127.0.0.1 that speaks the routes huggingface_hub asks for."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from adapters.errors import SourceForbidden, SourceNotFound, SourceTooLarge, SourceUnavailable
from adapters.manifest import CONFIG_FILE, WEIGHTS_FILE
from adapters.sources.hub import HubSource
from adapters.staging import Staging

COMMIT = "c0ffee" * 6 + "beef"
TOKEN = "hf_secret"


def listed(content: bytes) -> dict[str, Any]:
    return {
        "size": len(content),
        "lfs": {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 1},
    }


@dataclass
class Hub:
    files: dict[str, bytes] = field(
        default_factory=lambda: {
            CONFIG_FILE: b'{"r": 8}',
            WEIGHTS_FILE: b"w" * 100_000,
            "optimizer.pt": b"pickle",
            "README.md": b"#",
        }
    )
    listing: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Overrides of what the listing says of a file."""
    api_body: bytes | None = None
    status: int = 200
    download_status: int = 200
    cut_after: int | None = None
    """Close the connection after so many bytes of a body."""
    wanted_token: str | None = None
    redirect_to: str | None = None
    stall: bool = False
    endpoint: str = ""
    asked: list[str] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode().split("\r\n")
                path = lines[0].split(" ")[1]
                headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines[1:])}
                self.asked.append(path)
                self.tokens.append(headers.get("authorization"))
                if self.stall:
                    await reader.read()
                status, extra, body = self.answer(path, headers)
                writer.write(f"HTTP/1.1 {status} -\r\ncontent-length: {len(body)}\r\n{extra}\r\n".encode())
                if self.cut_after is not None and "/resolve/" in path:
                    writer.write(body[: self.cut_after])
                    break
                writer.write(body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def answer(self, path: str, headers: dict[str, str]) -> tuple[int, str, bytes]:
        if self.wanted_token and headers.get("authorization") != f"Bearer {self.wanted_token}":
            return 401, "", b'{"error": "Invalid credentials"}'
        if self.status != 200:
            return self.status, "", b"{}"
        route, _, query = path.partition("?")
        if route == "/api/models/org/sql/revision/main" and query == "blobs=true":
            siblings = [{"rfilename": n} | listed(c) | self.listing.get(n, {}) for n, c in self.files.items()]
            body = json.dumps({"id": "org/sql", "sha": COMMIT, "siblings": siblings}).encode()
            return 200, "content-type: application/json\r\n", body if self.api_body is None else self.api_body
        prefix = f"/org/sql/resolve/{COMMIT}/"
        if route.startswith(prefix) and route.removeprefix(prefix) in self.files:
            if self.redirect_to:
                return 302, f"location: {self.redirect_to}{route}\r\n", b""
            body = self.files[route.removeprefix(prefix)]
            return self.download_status, f'etag: "{len(body)}"\r\nx-repo-commit: {COMMIT}\r\n', body
        return 404, "x-error-code: RepoNotFound\r\n", b"{}"


@pytest.fixture
async def hub() -> AsyncIterator[Hub]:
    async for started in started_hub():
        yield started


@pytest.fixture
async def content_host() -> AsyncIterator[Hub]:
    async for started in started_hub():
        yield started


async def started_hub() -> AsyncIterator[Hub]:
    hub = Hub()
    server = await asyncio.start_server(hub.serve, "127.0.0.1", 0)
    hub.endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield hub
    server.close()


@pytest.fixture
def source(hub: Hub) -> HubSource:
    return HubSource("org/sql", endpoint=hub.endpoint)


async def test_two_files_arrive_at_the_commit_and_nothing_else_is_asked(hub: Hub, source: HubSource, staging: Staging):
    async with staging.open() as staged:
        assert await source.fetch(staged) == f"hf://org/sql@{COMMIT}"
        assert {path.name: path.read_bytes() for path in staged.path.iterdir()} == {
            name: hub.files[name] for name in (CONFIG_FILE, WEIGHTS_FILE)
        }
    assert hub.asked == [
        "/api/models/org/sql/revision/main?blobs=true",
        f"/org/sql/resolve/{COMMIT}/{CONFIG_FILE}",
        f"/org/sql/resolve/{COMMIT}/{WEIGHTS_FILE}",
    ]
    assert set(hub.tokens) == {None}


async def test_a_token_opens_a_private_repository(hub: Hub, staging: Staging):
    hub.wanted_token = TOKEN
    async with staging.open() as staged:
        await HubSource("org/sql", endpoint=hub.endpoint, token=TOKEN).fetch(staged)


async def test_a_token_stays_with_the_hub_when_it_redirects(hub: Hub, content_host: Hub, staging: Staging):
    hub.wanted_token = TOKEN
    hub.redirect_to = content_host.endpoint
    async with staging.open() as staged:
        await HubSource("org/sql", endpoint=hub.endpoint, token=TOKEN).fetch(staged)
    assert content_host.tokens == [None, None]


async def test_without_a_token_a_private_repository_is_forbidden(hub: Hub, source: HubSource, staging: Staging):
    hub.wanted_token = TOKEN
    async with staging.open() as staged:
        with pytest.raises(SourceForbidden, match="HF_TOKEN"):
            await source.fetch(staged)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, SourceForbidden),
        (403, SourceForbidden),
        (404, SourceNotFound),
        (429, SourceUnavailable),
        (500, SourceUnavailable),
        (503, SourceUnavailable),
    ],
)
async def test_a_refusal_has_its_own_error(
    hub: Hub, source: HubSource, staging: Staging, status: int, error: type[Exception]
):
    hub.status = status
    async with staging.open() as staged:
        with pytest.raises(error, match="org/sql"):
            await source.fetch(staged)


async def test_a_refused_download_has_its_own_error(hub: Hub, source: HubSource, staging: Staging):
    hub.download_status = 403
    async with staging.open() as staged:
        with pytest.raises(SourceForbidden):
            await source.fetch(staged)


async def test_an_unknown_revision_is_not_found(hub: Hub, staging: Staging):
    async with staging.open() as staged:
        with pytest.raises(SourceNotFound, match="revision 'v9'"):
            await HubSource("org/sql", "v9", endpoint=hub.endpoint).fetch(staged)


async def test_pickled_weights_are_not_fetched(hub: Hub, source: HubSource, staging: Staging):
    hub.files["adapter_model.bin"] = hub.files.pop(WEIGHTS_FILE)
    async with staging.open() as staged:
        with pytest.raises(SourceNotFound, match=r"it holds README\.md, .*adapter_model\.bin"):
            await source.fetch(staged)
        assert list(staged.path.iterdir()) == []


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"siblings": 3}'])
async def test_nonsense_is_called_so(hub: Hub, source: HubSource, staging: Staging, body: bytes):
    hub.api_body = body
    async with staging.open() as staged:
        with pytest.raises(SourceUnavailable):
            await source.fetch(staged)


async def test_a_truncated_body_is_noticed(hub: Hub, source: HubSource, staging: Staging):
    hub.cut_after = 3
    async with staging.open() as staged:
        with pytest.raises(SourceUnavailable, match="try again"):
            await source.fetch(staged)


@pytest.mark.parametrize("lie", [{"size": 3, "lfs": None}, listed(b"x" * 8)])
async def test_other_bytes_than_listed_are_noticed(hub: Hub, source: HubSource, staging: Staging, lie: dict[str, Any]):
    hub.listing = {CONFIG_FILE: lie}
    async with staging.open() as staged:
        with pytest.raises(SourceUnavailable, match="other bytes"):
            await source.fetch(staged)


async def test_a_hub_that_is_down_is_unavailable(staging: Staging, hub: Hub):
    async with staging.open() as staged:
        with pytest.raises(SourceUnavailable, match="could not be reached"):
            await HubSource("org/sql", endpoint="http://127.0.0.1:1").fetch(staged)


async def test_a_silent_hub_is_given_up(hub: Hub, staging: Staging):
    hub.stall = True
    async with staging.open() as staged:
        with pytest.raises(SourceUnavailable, match="could not be reached"):
            await HubSource("org/sql", endpoint=hub.endpoint, answer_timeout_s=0.2).fetch(staged)


async def test_a_hub_that_takes_too_long_is_given_up(hub: Hub, staging: Staging):
    async with staging.open() as staged:
        with pytest.raises(SourceUnavailable, match="took longer than 0 s"):
            await HubSource("org/sql", endpoint=hub.endpoint, deadline_s=0).fetch(staged)


async def test_an_adapter_larger_than_accepted_stops_early(hub: Hub, source: HubSource, staging: Staging):
    hub.files[WEIGHTS_FILE] = b"w" * 1_000_001
    async with staging.open() as staged:
        with pytest.raises(SourceTooLarge):
            await source.fetch(staged)
