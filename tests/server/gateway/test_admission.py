"""A server that stops: what it still takes, what it waits for, and what load balancers see."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack
from urllib.parse import urlsplit

import httpx
import pytest

from server.errors import Overloaded
from server.gateway.admission import WRITES, Admission
from server.http import body_reader
from tests.server.opened import CHAT, Listening, Opened, Opening
from tests.until import Until

CHAT_BODY = {"model": "base", "messages": [{"role": "user", "content": "hi"}]}


async def test_a_leaving_server_is_not_ready_and_still_takes_requests(opened: Opened) -> None:
    opened.state.admission.is_leaving = True
    ready = await opened.client.get("/ready")
    assert (ready.status_code, ready.json()["status"]) == (503, "draining")
    assert (await opened.client.post(CHAT, json=CHAT_BODY)).status_code == 200
    assert (await opened.publish("sql"))["version"] == 1


def test_one_keys_writes_leave_places_for_those_of_others() -> None:
    admission = Admission(10)
    with ExitStack() as under_way:
        for _ in range(3 * WRITES // 4):
            under_way.enter_context(admission.writing("flood"))
        with pytest.raises(Overloaded, match="96 uploads"), admission.writing("flood"):
            pass
        under_way.enter_context(admission.writing("other"))
    with admission.writing("flood"):
        assert admission.in_flight == 1


def test_one_projects_requests_leave_places_for_those_of_others_whatever_they_name() -> None:
    admission = Admission(16)
    with ExitStack() as under_way:
        for _ in range(12):
            under_way.enter_context(admission.admitted("flood"))
        with pytest.raises(Overloaded, match="project 'flood'"), admission.admitted("flood"):
            pass
        under_way.enter_context(admission.admitted("other"))
    with admission.admitted("flood"):
        assert admission.in_flight == 1


def test_one_request_of_many_answers_takes_no_more_than_a_share() -> None:
    admission = Admission(1024)
    with ExitStack() as under_way:
        for _ in range(760):
            under_way.enter_context(admission.admitted("flood"))
        with admission.admitted("flood"), pytest.raises(Overloaded, match="project 'flood'"):
            admission.widen(200, "flood")
        for _ in range(2):
            admission.enter("sql", 300)
        with pytest.raises(Overloaded, match="for 'sql'"):
            admission.enter("sql", 300)
        under_way.enter_context(admission.admitted("other"))


def test_answers_count_for_the_share_of_a_project() -> None:
    admission = Admission(16)
    with admission.admitted("flood"):
        narrow = admission.widen(12, "flood")
        with pytest.raises(Overloaded, match="project 'flood'"), admission.admitted("flood"):
            pass
        with admission.admitted("other"), pytest.raises(Overloaded, match="5 generations"):
            admission.widen(5, "other")
        narrow()
        with admission.admitted("flood"):
            assert admission.in_flight == 2


def test_without_keys_one_project_may_have_all_places() -> None:
    admission = Admission(4)
    with ExitStack() as under_way:
        for _ in range(4):
            under_way.enter_context(admission.admitted(None))
        with pytest.raises(Overloaded, match="4 requests are in flight"), admission.admitted(None):
            pass


async def test_the_base_model_has_its_share_of_the_places_and_leaves_room_for_adapters(opening: Opening) -> None:
    async with opening(max_in_flight=4) as opened:
        await opened.publish("sql")
        flood = [opened.call("base") for _ in range(3)]
        for stream in flood:
            await stream.start()
        refused = await opened.chat("base")
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "overloaded")
        assert "the base model" in refused.json()["error"]["message"]
        assert await opened.answer("sql") == "sql@1"
        await flood[0].rest()
        assert await opened.answer("base") == "base"


async def test_a_drain_waits_for_an_upload_under_way(opened: Opened, until: Until) -> None:
    whole = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b'--B\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
        await whole.wait()
        yield b'--B\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n{}\r\n--B--\r\n'

    kind = {"content-type": "multipart/form-data; boundary=B"}
    upload = asyncio.create_task(opened.client.post("/v1/files", content=slow(), headers=kind))
    await until(lambda: opened.state.admission.in_flight == 1)
    draining = asyncio.create_task(opened.state.admission.drain(20))
    await until(lambda: opened.state.admission.is_draining)
    assert not draining.done()
    whole.set()
    assert (await upload).status_code == 200
    assert await draining


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/v1/files"), ("PUT", "/v1/adapters/sql/aliases/stable"), ("DELETE", "/v1/adapters/sql")],
)
async def test_a_draining_server_refuses_writes_before_their_body_and_answers_reads(
    opened: Opened, method: str, path: str
) -> None:
    await opened.state.admission.drain(0)

    async def never() -> AsyncIterator[bytes]:
        raise AssertionError("the body is not asked for")
        yield b""

    refused = await opened.client.request(method, path, content=never() if method == "POST" else None)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
    assert refused.headers["connection"] == "close"
    assert int(refused.headers["retry-after"]) > 0
    assert (await opened.client.get("/v1/models")).status_code == 200


async def test_a_body_that_stalls_takes_no_place(
    opening: Opening, listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body_reader, "FIRST_S", 3.0)
    async with opening(max_in_flight=1) as opened, listening(opened.app) as url:
        reader, writer = await asyncio.open_connection(*urlsplit(url).netloc.split(":"))
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000"
        writer.write(f"{head}\r\n\r\n{{".encode())
        await writer.drain()
        async with httpx.AsyncClient(base_url=url) as http:
            assert (await http.post(CHAT, json=CHAT_BODY)).status_code == 200
        assert (await reader.readline()).split()[1] == b"408"
        writer.close()


async def test_a_body_that_is_too_large_is_refused(opening: Opening) -> None:
    async with opening(max_body_bytes=1 << 16) as opened:
        refused = await opened.client.post(CHAT, json=CHAT_BODY | {"user": "x" * (1 << 16)})
        assert (refused.status_code, refused.json()["error"]["code"]) == (413, "body_too_large")
