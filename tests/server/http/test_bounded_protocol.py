"""What a connection may send before any request is seen; over real sockets."""

from __future__ import annotations

import asyncio
import json
import resource
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from server.http import bounded_protocol
from server.http.bounded_protocol import MAX_HEADER_BYTES
from tests.server.opened import Listening

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n"
SPACE = b"x" * 60_000
WAIT_S = 20.0
"""Seconds after which a test fails that waits for the server."""


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("fine")(scope, receive, send)


class Connection:
    """A raw connection to the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, content: bytes) -> None:
        self.writer.write(content)
        await self.writer.drain()

    async def answer(self) -> tuple[int, str]:
        """Return the status and the body of the next response."""
        async with asyncio.timeout(WAIT_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        length = next(line for line in head.lower().splitlines() if line.startswith("content-length"))
        body = await self.reader.readexactly(int(length.partition(":")[2]))
        return int(head.split()[1]), body.decode()

    async def rest(self) -> bytes:
        """Return the bytes that come until the server closes the connection."""
        async with asyncio.timeout(WAIT_S):
            return await self.reader.read()


class Connect:
    """Opens connections, and closes them at the end."""

    def __init__(self, url: str) -> None:
        self.at = urlsplit(url)
        self.opened: list[Connection] = []

    async def __call__(self) -> Connection:
        self.opened.append(Connection(*await asyncio.open_connection(self.at.hostname, self.at.port)))
        return self.opened[-1]


@pytest.fixture
async def connect(listening: Listening) -> AsyncIterator[Connect]:
    async with listening(app) as url:
        connect = Connect(url)
        yield connect
        for connection in connect.opened:
            connection.writer.close()


def code(body: str) -> str:
    error: dict[str, str] = json.loads(body)["error"]
    return error["code"]


async def test_a_request_is_answered_and_the_next_one_on_its_connection(connect: Connect) -> None:
    connection = await connect()
    for _ in range(3):
        await connection.send(REQUEST + b"\r\n")
        assert await connection.answer() == (200, "fine")


async def test_headers_up_to_the_limit_are_read(connect: Connect) -> None:
    connection = await connect()
    await connection.send(REQUEST + b"A: " + SPACE + b"\r\n\r\n")
    assert await connection.answer() == (200, "fine")


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param(b"A: " + SPACE + b"\r\nB: " + SPACE + b"\r\n\r\n", id="whole"),
        pytest.param(b"A: " + SPACE + SPACE, id="one header without an end"),
        pytest.param(b"A: b\r\n" * 20_000, id="many headers without an end"),
    ],
)
async def test_larger_headers_are_refused_and_the_connection_closed(connect: Connect, headers: bytes) -> None:
    connection = await connect()
    await connection.send(REQUEST + headers)
    status, body = await connection.answer()
    assert (status, code(body)) == (431, "headers_too_large")
    assert str(MAX_HEADER_BYTES) in body
    assert await connection.rest() == b""


async def test_a_second_request_has_the_limit_too(connect: Connect) -> None:
    connection = await connect()
    await connection.send(REQUEST + b"\r\n")
    assert await connection.answer() == (200, "fine")
    await connection.send(REQUEST + b"A: " + SPACE)
    await connection.send(SPACE + b"\r\n\r\n")
    assert (await connection.answer())[0] == 431


CHUNKED = REQUEST.replace(b"GET", b"POST") + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "rest",
    [
        pytest.param(b"0\r\n" + b"A: b\r\n" * 20_000, id="trailers without an end"),
        pytest.param(b"0\r\nA: " + SPACE + SPACE, id="one trailer without an end"),
        pytest.param(b"1;" + SPACE + SPACE, id="a chunk's extension without an end"),
    ],
)
async def test_what_surrounds_a_body_has_the_limit_too(connect: Connect, rest: bytes) -> None:
    connection = await connect()
    await connection.send(CHUNKED)
    assert await connection.answer() == (200, "fine")
    await connection.send(rest)
    assert (await connection.answer())[0] == 431
    assert await connection.rest() == b""


async def test_what_follows_a_body_is_no_header(listening: Listening) -> None:
    names: list[bytes] = []

    async def reading(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        names.extend(name for name, _ in scope["headers"])
        await app(scope, receive, send)

    async with listening(reading) as url:
        connection = await Connect(url)()
        await connection.send(CHUNKED + b"1\r\na\r\n0\r\nIdempotency-Key: b\r\n\r\n")
        assert await connection.answer() == (200, "fine")
        connection.writer.close()
    assert names == [b"host", b"transfer-encoding"]


@pytest.mark.parametrize(
    "rest", [pytest.param(b"x", id="a body that goes on"), pytest.param(b"", id="a body that ended")]
)
async def test_a_body_that_was_answered_early_keeps_no_connection(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, rest: bytes
) -> None:
    monkeypatch.setattr(bounded_protocol, "HEADERS_WITHIN_S", 0.05)
    connection = await connect()
    length = f"Content-Length: {1 + len(rest)}\r\n\r\n".encode()
    await connection.send(REQUEST.replace(b"GET", b"POST") + length)
    assert await connection.answer() == (200, "fine")
    await connection.send(b"x")
    assert await connection.rest() == b""


async def test_empty_lines_keep_no_connection(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = await connect()
    await connection.send(REQUEST + b"\r\n")
    assert await connection.answer() == (200, "fine")
    monkeypatch.setattr(bounded_protocol, "HEADERS_WITHIN_S", 0.05)
    await connection.send(b"\r\n")
    assert (await connection.answer())[0] == 408
    assert await connection.rest() == b""


async def test_headers_that_take_too_long_are_refused(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_protocol, "HEADERS_WITHIN_S", 0.05)
    connection = await connect()
    await connection.send(REQUEST)
    status, body = await connection.answer()
    assert (status, code(body)) == (408, "headers_too_slow")
    assert await connection.rest() == b""


async def test_a_connection_that_sends_nothing_is_closed(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_protocol, "HEADERS_WITHIN_S", 0.05)
    assert await (await connect()).rest() == b""


async def test_more_connections_than_allowed_are_refused(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_protocol, "MAX_CONNECTIONS", 2)
    kept = [await connect() for _ in range(2)]
    for connection in kept:
        await connection.send(REQUEST + b"\r\n")
        assert (await connection.answer())[0] == 200
    status, body = await (await connect()).answer()
    assert (status, code(body)) == (503, "too_many_connections")
    await kept[0].send(REQUEST + b"\r\n")
    assert (await kept[0].answer())[0] == 200


async def test_connections_leave_half_of_the_descriptors_to_files(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (4, 4))
    kept = [await connect() for _ in range(2)]
    for connection in kept:
        await connection.send(REQUEST + b"\r\n")
        assert (await connection.answer())[0] == 200
    status, body = await (await connect()).answer()
    assert (status, code(body)) == (503, "too_many_connections")


@pytest.mark.parametrize(("before", "after"), [((256, 4096), (4096, 4096)), ((256, 100_000), (8192, 100_000))])
def test_a_server_takes_the_descriptors_that_its_connections_need(
    monkeypatch: pytest.MonkeyPatch, before: tuple[int, int], after: tuple[int, int]
) -> None:
    limits = {resource.RLIMIT_NOFILE: before}
    monkeypatch.setattr(resource, "getrlimit", limits.__getitem__)
    monkeypatch.setattr(resource, "setrlimit", limits.__setitem__)
    bounded_protocol.raise_descriptor_limit()
    assert limits[resource.RLIMIT_NOFILE] == after
