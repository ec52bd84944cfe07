"""OpenAI's client against a server that was started without a flag about tools: what its methods send is answered."""

from __future__ import annotations

import json
import re

import openai
import pytest
from pydantic import BaseModel

QUESTION = [{"role": "user", "content": "Order for Ben: 29 green hats, deliver to Paris on Tuesday."}]


def tool(name: str, **properties: list[str]) -> dict:
    """A tool whose arguments are one of a few values each, so that any model ends its call."""
    parameters = {
        "type": "object",
        "properties": {key: {"type": "string", "enum": values} for key, values in properties.items()},
        "required": list(properties),
        "additionalProperties": False,
    }
    return {"type": "function", "function": {"name": name, "strict": True, "parameters": parameters}}


PAINT = tool("paint", color=["red", "blue"])
MOVE = tool("move", where=["up", "down"])


async def chat(client, model="json", **options):
    options = {"max_tokens": 128, "temperature": 0, **options}
    return await client.chat.completions.create(model=model, messages=QUESTION, **options)


@pytest.mark.parametrize("model", ["embedded-base", "json"])
async def test_tools_that_the_model_need_not_call_are_taken(client, model):
    answer = await chat(client, model, tools=[PAINT], parallel_tool_calls=True)
    assert answer.choices[0].finish_reason in {"stop", "tool_calls", "length"}


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "paint"}}])
async def test_a_demanded_call_is_made(client, choice):
    answer = (await chat(client, tools=[PAINT, MOVE], tool_choice=choice)).choices[0]
    call = answer.message.tool_calls[0]
    assert call.function.name in ({"paint", "move"} if choice == "required" else {"paint"})
    assert set(json.loads(call.function.arguments)) <= {"color", "where"}
    assert call.id


async def test_a_streamed_call_is_the_whole_one_in_pieces(client):
    choice = {"type": "function", "function": {"name": "paint"}}
    whole = (await chat(client, tools=[PAINT], tool_choice=choice)).choices[0].message.tool_calls[0].function
    pieces = [
        piece.function
        async for chunk in await chat(client, tools=[PAINT], tool_choice=choice, stream=True)
        for each in chunk.choices
        for piece in each.delta.tool_calls or []
    ]
    assert "".join(piece.name or "" for piece in pieces) == whole.name
    assert json.loads("".join(piece.arguments or "" for piece in pieces)) == json.loads(whole.arguments)


async def test_no_tools_are_as_none(client):
    answers = [(await chat(client, **tools)).choices[0].message.content for tools in ({}, {"tools": []})]
    assert answers[0] == answers[1]


class Order(BaseModel):
    """An order with no free text, so that any model can end it."""

    qty: int
    color: bool


@pytest.mark.parametrize("model", ["embedded-base", "json"])
async def test_structured_output_closes(client, model):
    answer = await client.chat.completions.parse(
        model=model, messages=QUESTION, response_format=Order, temperature=0, max_tokens=64
    )
    assert isinstance(answer.choices[0].message.parsed, Order)
    assert not re.search(r"\s\s", answer.choices[0].message.content)


async def test_a_limit_above_the_context_is_answered_up_to_it_and_a_long_prompt_is_not(client):
    context = (await client.models.retrieve("sql")).to_dict()["max_model_len"]
    assert {model.to_dict()["max_model_len"] async for model in client.models.list()} == {context}
    for limit in ({"max_tokens": 2 * context}, {"max_completion_tokens": 10**9, "max_tokens": None}):
        assert (await chat(client, **limit)).choices[0].finish_reason == "stop"
    answer = await client.completions.create(model="sql", prompt="SELECT", max_tokens=2 * context, temperature=0)
    assert answer.usage.total_tokens <= context
    answer = await client.responses.create(model="json", input=QUESTION, max_output_tokens=2 * context, temperature=0)
    assert answer.output_text
    with pytest.raises(openai.BadRequestError, match="context length"):
        await client.completions.create(model="sql", prompt="SELECT " * 2 * context, max_tokens=2 * context)


async def test_a_response_is_streamed(client):
    events = [event async for event in await client.responses.create(model="json", input=QUESTION, stream=True)]
    assert [events[0].type, events[-1].type] == ["response.created", "response.completed"]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == events[-1].response.output_text


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({"model": ""}, "embedded-base"),
        ({"extra_body": {"guided_json": {"type": "object"}}}, "response_format"),
        ({"functions": [{"name": "paint"}]}, "tools"),
    ],
)
async def test_what_would_be_ignored_is_refused_with_what_to_write(client, options, advice):
    with pytest.raises(openai.BadRequestError, match=advice):
        await chat(client, **options)


async def test_several_conversations_are_answered_at_once(http):
    body = {"model": "json", "messages": [QUESTION, QUESTION], "max_tokens": 64, "temperature": 0}
    answer = (await http.post("/v1/chat/completions/batch", json=body)).json()
    assert answer["model"] == "json@1"
    assert len({choice["message"]["content"] for choice in answer["choices"]}) == 1


async def test_the_adapters_in_flight_are_one_series_of_vllm_s_metrics(http, client):
    for model in ("json", "sql", "sentiment"):
        await chat(client, model, max_tokens=4)
    page = (await http.get("/metrics")).text
    assert len(re.findall(r"^vllm:lora_requests_info\{", page, re.MULTILINE)) == 1


async def test_a_page_of_another_origin_may_stream_from_a_loopback_address_alone(http):
    body = {"model": "json", "messages": QUESTION, "max_tokens": 4, "stream": True}
    for origin, allowed in (("http://localhost:3000", "http://localhost:3000"), ("https://example.com", None)):
        response = await http.post("/v1/chat/completions", json=body, headers={"Origin": origin})
        assert response.headers.get("access-control-allow-origin") == allowed
