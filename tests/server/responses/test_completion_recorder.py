"""Streams of chat completions are stored as what they are the parts of."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from adapters.storage.database import Database
from server.errors import ResponseNotFound
from server.responses.completion_recorder import CompletionRecorder
from server.responses.response_store import COMPLETION, MAX_BYTES, ResponseStore

REQUEST: dict[str, Any] = {"model": "sql", "store": True, "messages": [{"role": "user", "content": "x"}]}
FACTS = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "sql@1"}


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[ResponseStore]:
    async with Database.open(database_url) as database:
        yield await ResponseStore.open(database, limit=10, max_age_s=60)


def event(**delta: Any) -> bytes:
    finish = delta.pop("finish_reason", None)
    choice = {"index": delta.pop("index", 0), "delta": delta, "finish_reason": finish}
    return b"data: " + json.dumps({**FACTS, "choices": [choice]}).encode() + b"\n\n"


async def record(store: ResponseStore, *pieces: bytes, status: int = 200) -> list[bytes]:
    """Send ``pieces`` as the body of a stream; return those that arrive."""
    arrived: list[bytes] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        head = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": status, "headers": head})
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})

    async def client(message: Message) -> None:
        arrived.append(message.get("body", b""))

    async def nothing() -> Message:
        return {"type": "http.disconnect"}

    recorder = CompletionRecorder(store)
    await recorder(app, {"type": "http"}, nothing, client, content=json.dumps(REQUEST).encode(), project="default")
    return arrived[1:]


async def stored(store: ResponseStore) -> Any:
    return (await store.get("chatcmpl-1", "default", (COMPLETION,))).body


async def test_texts_calls_and_choices_are_put_together(store: ResponseStore) -> None:
    pieces = [
        event(role="assistant", content=""),
        event(content="4"),
        event(content="2") + event(index=1, content="6"),
        event(index=1, tool_calls=[{"index": 0, "id": "c", "function": {"name": "add", "arguments": '{"a'}}]),
        event(index=1, tool_calls=[{"index": 0, "function": {"arguments": '": 1}'}}]),
        event(finish_reason="stop"),
        b"data: " + json.dumps({**FACTS, "choices": [], "usage": {"total_tokens": 9}}).encode() + b"\n\n",
        b"data: [DONE]\n\n",
    ]
    assert await record(store, *pieces) == pieces
    body = await stored(store)
    assert [choice["message"]["content"] for choice in body["choices"]] == ["42", "6"]
    (call,) = body["choices"][1]["message"]["tool_calls"]
    assert call == {"id": "c", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    assert (body["choices"][0]["finish_reason"], body["usage"], body["model"]) == ("stop", {"total_tokens": 9}, "sql@1")


async def test_an_answer_with_the_words_of_the_last_event_is_stored_whole(store: ResponseStore) -> None:
    words = "data: [DONE]\ndata: [DONE]"
    await record(store, event(content=words), event(content=" and more"), b"data: [DONE]\n\n")
    assert (await stored(store))["choices"][0]["message"]["content"] == f"{words} and more"


@pytest.mark.parametrize(
    "pieces",
    [
        (event(content="4"),),  # the client left, or the engine died
        (event(content="x" * MAX_BYTES), event(content="x" * MAX_BYTES), event(content="x"), b"data: [DONE]\n\n"),
        (*[event(content="x")] * (2 * MAX_BYTES // len(event(content="x")) + 1), b"data: [DONE]\n\n"),
        (b"data: [DONE]\n\n",),
    ],
    ids=("cut", "large", "many small events", "empty"),
)
async def test_what_is_not_whole_or_too_large_is_not_stored(store: ResponseStore, pieces: tuple[bytes, ...]) -> None:
    assert await record(store, *pieces) == list(pieces)
    with pytest.raises(ResponseNotFound):
        await stored(store)


async def test_a_refusal_is_not_stored(store: ResponseStore) -> None:
    await record(store, event(content="4"), b"data: [DONE]\n\n", status=400)
    with pytest.raises(ResponseNotFound):
        await stored(store)
