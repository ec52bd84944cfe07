"""A file is sent whole or in ranges, and a range that it does not have is refused as everything else is."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from server.http.download import Download

CONTENT = b"0123456789"


@pytest.fixture
def client(tmp_path: Path) -> httpx.AsyncClient:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    return httpx.AsyncClient(transport=httpx.ASGITransport(Download(path)), base_url="http://test")


async def test_a_file_is_sent_whole(client: httpx.AsyncClient) -> None:
    response = await client.get("/")
    assert (response.status_code, response.content) == (200, CONTENT)


@pytest.mark.parametrize(("asked", "sent"), [("0-1", b"01"), ("8-", b"89"), ("-3", b"789")])
async def test_a_range_of_a_file_is_sent(client: httpx.AsyncClient, asked: str, sent: bytes) -> None:
    response = await client.get("/", headers={"range": f"bytes={asked}"})
    assert (response.status_code, response.content) == (206, sent)


@pytest.mark.parametrize("asked", ["bytes=5-1", "bytes=", "bytes=a-b", "bytes=0-" + "9" * 5000, "lines=1-2", "x"])
async def test_a_range_that_makes_no_sense_is_refused_with_openai_s_body(client: httpx.AsyncClient, asked: str) -> None:
    response = await client.get("/", headers={"range": asked})
    error = response.json()["error"]
    assert (response.status_code, error["type"], error["param"]) == (400, "invalid_request_error", "Range")
    assert "none for the whole file" in error["message"]


async def test_a_range_behind_the_end_is_refused_with_the_size_of_the_file(client: httpx.AsyncClient) -> None:
    response = await client.get("/", headers={"range": "bytes=10-"})
    assert (response.status_code, response.headers["content-range"]) == (416, "bytes */10")
    assert response.json()["error"]["param"] == "Range"
