"""A fault in a multipart upload is the caller's, and the response says so."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from starlette.requests import Request
from starlette.types import Message

from server.errors import InvalidRequest
from server.http.multipart import MultipartStream

Read = Callable[..., Awaitable[list[tuple[str, bytes]]]]


@pytest.fixture
def read() -> Read:
    """Reads the parts of a body that arrives in ``chunks``."""

    async def parts(*chunks: bytes, boundary: str = "B") -> list[tuple[str, bytes]]:
        left = list(chunks)

        async def receive() -> Message:
            return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

        headers = [(b"content-type", f"multipart/form-data; boundary={boundary}".encode())]
        stream = MultipartStream(
            Request({"type": "http", "method": "POST", "headers": headers}, receive), needed="two files"
        )
        return [(name, b"".join([chunk async for chunk in part])) async for name, part in stream.parts()]

    return parts


def body(boundary: str = "B") -> bytes:
    return f'--{boundary}\r\nContent-Disposition: form-data; name="a"\r\n\r\nbytes\r\n--{boundary}--\r\n'.encode()


async def test_parts_are_read_however_they_arrive(read: Read) -> None:
    assert await read(body()) == await read(*[bytes([byte]) for byte in body()]) == [("a", b"bytes")]


@pytest.mark.parametrize("length", [256, 70])
async def test_a_boundary_of_any_length_that_the_parser_takes_is_read(read: Read, length: int) -> None:
    assert await read(body("B" * length), boundary="B" * length) == [("a", b"bytes")]


async def test_an_overlong_boundary_is_an_invalid_request(read: Read) -> None:
    with pytest.raises(InvalidRequest, match="Boundary length 257"):
        await read(body("B" * 257), boundary="B" * 257)


@pytest.mark.parametrize(
    "malformed",
    [b"no boundary", b"--B\r\nno colon\r\n\r\n", b"--B\r\n" + b"a: b\r\n" * 1000, b"--B\r\na: " + b"b" * 100_000],
)
async def test_a_malformed_body_is_an_invalid_request(read: Read, malformed: bytes) -> None:
    with pytest.raises(InvalidRequest):
        await read(malformed)
