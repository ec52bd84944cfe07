"""Bodies are bounded in bytes, in time and together, before any work is done for them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack

import pytest
from starlette.types import Message, Receive

from server.errors import BodyTooLarge, BodyTooSlow, Overloaded
from server.http import body_reader
from server.http.body_reader import BodyReader

CHAT = "/v1/chat/completions"


def parts(*contents: bytes, ends: bool = True) -> Receive:
    """Return a ``receive`` that gives the parts of a body, and then waits for ever."""
    waiting: list[Message] = [{"type": "http.request", "body": part, "more_body": True} for part in contents]
    if ends:
        waiting[-1]["more_body"] = False

    async def receive() -> Message:
        if not waiting:
            await asyncio.Event().wait()
        return waiting.pop(0)

    return receive


async def whole(
    reader: BodyReader, receive: Receive, headers: dict[str, str] | None = None, sender: str = "key"
) -> bytes:
    async with reader.read("POST", CHAT, headers or {}, receive, sender=sender) as body:
        message = await body()
        assert not message["more_body"]
        content: bytes = message["body"]
        return content


@pytest.mark.parametrize("contents", [(b"{}",), (b"", b""), (b"{", b'"a": 1', b"}")])
async def test_a_body_is_given_whole(contents: Sequence[bytes]) -> None:
    assert await whole(BodyReader(100), parts(*contents)) == b"".join(contents)


async def test_a_body_that_says_it_is_too_large_is_not_read() -> None:
    with pytest.raises(BodyTooLarge, match="--max-body-bytes"):
        await whole(BodyReader(100), parts(ends=False), {"content-length": "101"})


async def test_a_body_without_a_length_is_read_up_to_the_limit() -> None:
    with pytest.raises(BodyTooLarge):
        await whole(BodyReader(100), parts(*[b"x" * 60] * 1000))


async def test_a_body_that_stops_arriving_is_too_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_reader, "FIRST_S", 0.01)
    with pytest.raises(BodyTooSlow):
        await whole(BodyReader(100), parts(b"{", ends=False))


async def test_a_large_body_that_stops_arriving_has_saved_no_time_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_reader, "FIRST_S", 0.01)
    reader = BodyReader(16 << 20)
    async with asyncio.timeout(5):
        with pytest.raises(BodyTooSlow):
            await whole(reader, parts(b"x" * (reader.max_bytes - 1), ends=False))
    assert reader._held == 0


async def test_a_sender_does_not_pay_for_the_time_that_the_server_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_reader, "FIRST_S", 0.01)
    receive = parts(b"x", b"x")

    async def later() -> Message:
        await asyncio.sleep(0)
        return await receive()

    async with BodyReader(10).read("POST", "/v1/files", {}, later, sender="key") as body:
        await body()
        await asyncio.sleep(0.05)  # a slow disk
        assert not (await body())["more_body"]


async def test_one_senders_bodies_leave_memory_for_those_of_others() -> None:
    reader, most = BodyReader(100), 3 * body_reader.BODIES_AT_ONCE // 4
    async with AsyncExitStack() as held:
        for _ in range(most):
            await held.enter_async_context(reader.read("POST", CHAT, {}, parts(b"x" * 100), sender="flood"))
        with pytest.raises(Overloaded):
            await whole(reader, parts(b"x" * 100), sender="flood")
        with pytest.raises(Overloaded):
            await whole(reader, parts(ends=False), {"content-length": "100"}, sender="flood")
        assert len(await whole(reader, parts(b"x" * 100), sender="other")) == 100
    assert len(await whole(reader, parts(b"x" * 100), sender="flood")) == 100


async def test_bodies_together_have_a_limit_and_give_their_bytes_back() -> None:
    reader = BodyReader(100)
    async with (
        reader.read("POST", CHAT, {}, parts(b"x" * 100), sender="one"),
        reader.read("POST", CHAT, {}, parts(b"x" * 100), sender="two"),
    ):
        reader._held += 100 * (body_reader.BODIES_AT_ONCE - 3)
        assert len(await whole(reader, parts(b"x" * 100))) == 100
        reader._held += 1
        with pytest.raises(Overloaded):
            await whole(reader, parts(b"x" * 100))
        reader._held -= 100 * (body_reader.BODIES_AT_ONCE - 3) + 1
    assert reader._held == 0


async def test_a_client_that_leaves_is_seen_by_the_app() -> None:
    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async with BodyReader(100).read("POST", CHAT, {}, receive, sender="key") as body:
        assert await body() == {"type": "http.disconnect"}


@pytest.mark.parametrize("path", ["/v1/files", "/v1/uploads/upload_1/parts", "/v1/adapters/sql/versions"])
async def test_an_upload_passes_as_it_comes_and_must_keep_arriving(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_reader, "FIRST_S", 0.01)
    async with BodyReader(10).read("POST", path, {}, parts(b"x" * 1000, ends=False), sender="key") as body:
        assert len((await body())["body"]) == 1000
        with pytest.raises(BodyTooSlow):
            await body()
