"""Stored responses by OpenAI's own client, on an engine that tells what it was asked."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import openai as client_library
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from openai import AsyncOpenAI

from server.access.scope import Scope
from server.engine.fake import FakeBuilder, FakeEngine
from server.engine.protocol import EngineHooks
from server.responses.response_store import MAX_BYTES
from tests.postgres import on_both_databases
from tests.server.opened import BASE, Listening, Opened, Opening
from tests.server.routes.conftest import Official

Body = dict[str, Any]


class Responding:
    """A fake with /v1/responses in vLLM's shape: its text is the number of items, and its body has what it was sent."""

    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine
        self.asked: list[Body] = []
        self.paths = frozenset({*engine.paths, "/v1/responses"})
        self.app = FastAPI(openapi_url=None)
        self.app.post("/v1/responses")(self.respond)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def respond(self, request: Request) -> Response:
        try:
            body = await request.json()
            items = body["input"]
        except (ValueError, TypeError, RecursionError):
            return JSONResponse({"refused": len(await request.body())}, 400)
        self.asked.append(body)
        text = f"{1 if isinstance(items, str) else len(items)} items"
        message = {
            "id": f"msg_{uuid4().hex}",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": text, "annotations": []}],
        }
        response = {
            "id": f"resp_{uuid4().hex}",
            "object": "response",
            "created_at": 1,
            "model": "base",
            "status": "completed",
            "output": [message],
            "tools": [],
            "tool_choice": "auto",
            "parallel_tool_calls": True,
            "previous_response_id": None,
        }
        if body.get("stream"):
            return StreamingResponse(events(response, text), media_type="text/event-stream")
        return JSONResponse(response)


async def events(response: Body, text: str) -> AsyncIterator[str]:
    begun = {**response, "output": [], "status": "in_progress"}
    parts: list[Body] = [
        {"type": "response.created", "response": begun},
        {"type": "response.in_progress", "response": begun},
        *({"type": "response.output_text.delta", "delta": letter, "item_id": "m"} for letter in text),
        {"type": "response.completed", "response": response},
    ]
    for number, part in enumerate(parts):
        yield f"event: {part['type']}\ndata: {json.dumps({**part, 'sequence_number': number})}\n\n"


class RespondingBuilder(FakeBuilder):
    @asynccontextmanager
    async def start(self, hooks: EngineHooks) -> AsyncIterator[Any]:
        async with super().start(hooks) as engine:
            self.engines[-1] = Responding(engine)  # type: ignore[call-overload]
            yield self.engines[-1]


@pytest.fixture
async def opened(opening: Opening) -> AsyncIterator[Opened]:
    async with opening(builder=RespondingBuilder(BASE)) as opened:
        yield opened


def asked(opened: Opened) -> list[Body]:
    engine: Any = opened.engine
    found: list[Body] = engine.asked
    return found


async def test_a_response_is_retrieved_and_deleted(openai: AsyncOpenAI) -> None:
    made = await openai.responses.create(model="base", input="hello")
    assert made.output_text == "1 items"
    found = await openai.responses.retrieve(made.id, include=["message.output_text.logprobs"])
    assert (found.id, found.output_text, found.output) == (made.id, "1 items", made.output)
    await openai.responses.delete(made.id)
    for call in (openai.responses.retrieve, openai.responses.delete, openai.responses.cancel):
        with pytest.raises(client_library.NotFoundError) as gone:
            await call(made.id)
        assert gone.value.code == "response_not_found"


@on_both_databases
async def test_a_conversation_goes_on_from_a_response(opened: Opened, openai: AsyncOpenAI) -> None:
    first = await openai.responses.create(model="base", input="one", instructions="be short")
    second = await openai.responses.create(model="base", input="two", previous_response_id=first.id)
    third = await openai.responses.create(
        model="base", input=[{"role": "user", "content": "three"}], previous_response_id=second.id
    )
    assert (second.previous_response_id, third.previous_response_id) == (first.id, second.id)
    assert third.output_text == "5 items"
    body = asked(opened)[-1]
    texts = [
        item["content"] if isinstance(item["content"], str) else item["content"][0]["text"] for item in body["input"]
    ]
    assert texts == ["one", "1 items", "two", "3 items", "three"]
    assert ("previous_response_id" in body, body.get("instructions")) == (False, None)
    await openai.responses.delete(second.id)  # the third holds the conversation itself
    assert (
        await openai.responses.create(model="base", input="4", previous_response_id=third.id)
    ).output_text == "7 items"


async def test_calls_and_results_of_tools_stay_in_the_conversation(opened: Opened, openai: AsyncOpenAI) -> None:
    call = {"type": "function_call", "call_id": "c1", "name": "add", "arguments": "{}"}
    result = {"type": "function_call_output", "call_id": "c1", "output": "3"}
    first = await openai.responses.create(model="base", input=[{"role": "user", "content": "add"}, call])  # type: ignore[list-item]
    await openai.responses.create(model="base", input=[result], previous_response_id=first.id)  # type: ignore[list-item]
    sent = asked(opened)[-1]["input"]
    assert [sent[1], sent[3]] == [call, result]


async def test_a_stream_stays_one_and_its_response_is_stored(opened: Opened, openai: AsyncOpenAI) -> None:
    first = await openai.responses.create(model="base", input="one")
    stream = await openai.responses.create(model="base", input="two", previous_response_id=first.id, stream=True)
    seen: list[Any] = [event async for event in stream]
    assert "".join(event.delta for event in seen if event.type == "response.output_text.delta") == "3 items"
    assert [event.type for event in seen[:2]] == ["response.created", "response.in_progress"]
    whole = [event.response for event in seen if hasattr(event, "response")]
    assert {response.previous_response_id for response in whole} == {first.id}
    stored = await openai.responses.retrieve(whole[-1].id)
    assert (stored.output_text, stored.previous_response_id) == ("3 items", first.id)


async def test_the_items_are_listed_the_last_first(openai: AsyncOpenAI) -> None:
    first = await openai.responses.create(model="base", input="one")
    second = await openai.responses.create(model="base", input="two", previous_response_id=first.id)
    items: list[Any] = [item async for item in openai.responses.input_items.list(second.id, limit=2)]
    assert [item.content[0].text for item in items] == ["two", "1 items", "one"]
    assert len({item.id for item in items}) == 3
    listed: list[Any] = (await openai.responses.input_items.list(second.id, order="asc", limit=1)).data
    assert (listed[0].content[0].text, listed[0].content[0].type, listed[0].role) == ("one", "input_text", "user")
    assert (items[1].content[0].type, items[1].role) == ("output_text", "assistant")


async def test_what_is_not_to_be_stored_is_not(openai: AsyncOpenAI) -> None:
    made = await openai.responses.create(model="base", input="hello", store=False)
    with pytest.raises(client_library.NotFoundError):
        await openai.responses.retrieve(made.id)
    with pytest.raises(client_library.BadRequestError, match="is stored: it was made in") as refused:
        await openai.responses.create(model="base", input="on", previous_response_id=made.id)
    assert (refused.value.code, refused.value.param) == ("previous_response_not_found", "previous_response_id")


async def test_a_background_response_is_refused_and_none_is_cancelled(opened: Opened, openai: AsyncOpenAI) -> None:
    with pytest.raises(client_library.BadRequestError, match="background responses are off") as refused:
        await openai.responses.create(model="base", input="hello", background=True)
    assert (refused.value.param, asked(opened)) == ("background", [])
    made = await openai.responses.create(model="base", input="hello")
    with pytest.raises(client_library.BadRequestError, match="has ended"):
        await openai.responses.cancel(made.id)


@on_both_databases
async def test_the_newest_responses_are_kept_in_number_and_age(opening: Opening, official: Official) -> None:
    async with opening(builder=RespondingBuilder(BASE), max_responses=3) as opened, official(opened) as openai:
        ids = [(await openai.responses.create(model="base", input="hello")).id for _ in range(5)]
        assert [response_id for response_id in ids if await is_stored(openai, response_id)] == ids[2:]
        store = opened.state.responses
        clock = store.clock

        async def later(connection: Any) -> datetime:
            return await clock(connection) + timedelta(days=31)

        assert await replace(store, clock=later).sweep() == 3
        assert not await is_stored(openai, ids[-1])


async def test_a_response_that_is_too_large_is_answered_and_not_stored(openai: AsyncOpenAI) -> None:
    made = await openai.responses.create(model="base", input="x" * MAX_BYTES)
    assert made.output_text == "1 items"
    assert not await is_stored(openai, made.id)


async def test_no_responses_are_kept_where_the_server_keeps_none(opening: Opening, official: Official) -> None:
    async with opening(builder=RespondingBuilder(BASE), max_responses=0) as opened, official(opened) as openai:
        made = await openai.responses.create(model="base", input="hello")
        with pytest.raises(client_library.BadRequestError, match="this server stores none"):
            await openai.responses.create(model="base", input="on", previous_response_id=made.id)


async def is_stored(openai: AsyncOpenAI, response_id: str) -> bool:
    try:
        return (await openai.responses.retrieve(response_id)).id == response_id
    except client_library.NotFoundError:
        return False


@on_both_databases
async def test_responses_survive_a_restart(opening: Opening, official: Official) -> None:
    async with opening(builder=RespondingBuilder(BASE)) as opened, official(opened) as openai:
        made = await openai.responses.create(model="base", input="hello")
    async with opening(builder=RespondingBuilder(BASE)) as reopened, official(reopened) as openai:
        assert (await openai.responses.retrieve(made.id)).output == made.output


async def test_a_key_sees_the_responses_of_its_project_only(opened: Opened, listening: Listening) -> None:
    keys = opened.state.keys
    secrets = [(await keys.create(name, [Scope.INFER], project=name))[1] for name in ("ours", "ours", "theirs")]
    async with (
        listening(opened.app) as url,
        AsyncOpenAI(base_url=f"{url}/v1", api_key=secrets[0], max_retries=0) as ours,
        AsyncOpenAI(base_url=f"{url}/v1", api_key=secrets[1], max_retries=0) as colleagues,
        AsyncOpenAI(base_url=f"{url}/v1", api_key=secrets[2], max_retries=0) as theirs,
    ):
        made = await ours.responses.create(model="base", input="hello")
        assert await is_stored(ours, made.id)
        assert await is_stored(colleagues, made.id)
        assert not await is_stored(theirs, made.id)
        with pytest.raises(client_library.NotFoundError):
            await theirs.responses.delete(made.id)
        with pytest.raises(client_library.BadRequestError):
            await theirs.responses.create(model="base", input="on", previous_response_id=made.id)
        assert await is_stored(ours, made.id)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'"x"', b"[" * 100_000])
async def test_what_is_no_request_reaches_the_engine_unchanged(opened: Opened, content: bytes) -> None:
    response = await opened.client.post("/v1/responses", content=content)
    assert (response.status_code, response.json()) == (400, {"refused": len(content)})


async def test_feedback_is_given_on_a_response(opened: Opened, openai: AsyncOpenAI) -> None:
    made = await openai.responses.create(model="base", input="one", instructions="be short")
    body = {"answer": made.id, "rating": "down"}
    stored = (await opened.client.post("/v1/feedback", json=body)).json()
    assert stored["answers"][0]["message"] == {"role": "assistant", "content": "1 items"}
    assert stored["prompt"][-1] == {"role": "user", "content": "one"}
    exported = (await opened.client.post("/v1/feedback/export", json={"as": "kto"})).json()
    (row,) = (await openai.files.content(exported["id"])).text.splitlines()
    assert json.loads(row) == {"messages": [*stored["prompt"], stored["answers"][0]["message"]], "label": False}
    with pytest.raises(client_library.NotFoundError):  # a route of chats shows no response
        await openai.chat.completions.retrieve(made.id)
