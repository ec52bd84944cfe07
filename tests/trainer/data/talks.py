"""Draws conversations, and writes each in the spellings that people's files have."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

Json = dict[str, Any]

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20).filter(
    lambda text: text.strip() != "" and not text.lstrip().startswith(("[", "{"))
)
KEYS = st.sampled_from(["id", "source", "meta", "score", "split", "created", "category"])
VALUES = st.one_of(TEXTS, st.integers(), st.booleans(), st.just({"a": 1}), st.just([1, 2]))
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"Call {name}.",
            "parameters": {
                "type": "object",
                "properties": {"item": {"type": "string"}, "count": {"type": "integer"}},
                "required": ["item"],
            },
        },
    }
    for name in ("locate", "order", "count")
]


@dataclass(frozen=True)
class Talk:
    """Messages and tools exactly as a request has them."""

    messages: tuple[Json, ...]
    tools: tuple[Json, ...] = ()
    trained: tuple[bool, ...] = field(default=())


def user(text: str) -> Json:
    return {"role": "user", "content": text}


def assistant(text: str) -> Json:
    return {"role": "assistant", "content": text}


@st.composite
def plain_talks(draw: st.DrawFn) -> Talk:
    """Draw a talk without tools that ends in an answer."""
    messages = [{"role": "system", "content": draw(TEXTS)}] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        messages += [user(draw(TEXTS)), assistant(draw(TEXTS))]
    return Talk(tuple(messages))


@st.composite
def tool_talks(draw: st.DrawFn, *, most_calls: int = 2) -> Talk:
    """Draw a talk in which each question leads to calls, their results and an answer."""
    messages: list[Json] = []
    number = 0
    for _ in range(draw(st.integers(1, 2))):
        calls = []
        for _ in range(draw(st.integers(1, most_calls))):
            arguments = draw(st.fixed_dictionaries({"item": TEXTS}, optional={"count": st.integers(0, 9)}))
            name = draw(st.sampled_from([tool["function"]["name"] for tool in TOOLS]))
            function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
            calls.append({"id": f"call{number:05}", "type": "function", "function": function})
            number += 1
        results = [
            {"role": "tool", "content": draw(TEXTS), "name": call["function"]["name"], "tool_call_id": call["id"]}
            for call in calls
        ]
        called = {"role": "assistant", "content": None, "tool_calls": calls}
        messages += [user(draw(TEXTS)), called, *results, assistant(draw(TEXTS))]
    return Talk(tuple(messages), tuple(TOOLS))


talks = st.one_of(plain_talks(), tool_talks())


def chat_row(talk: Talk) -> Json:
    return {"messages": list(talk.messages), **({"tools": list(talk.tools)} if talk.tools else {})}


@st.composite
def padded(draw: st.DrawFn, row: Json) -> Json:
    """Write null for keys that other rows have, as ``datasets`` and pandas do, and further columns."""
    keys = ("name", "weight", "tool_calls", "tool_call_id", "function_call", "refusal", "audio", "reasoning_content")
    messages = [
        {**dict.fromkeys(draw(st.lists(st.sampled_from(keys)))), **message} for message in row.get("messages", [])
    ]
    tools = [
        {**tool, "function": {**tool["function"], "strict": None, "parameters": _padded_schema(tool)}}
        for tool in row.get("tools", [])
    ]
    rest = {key: value for key, value in row.items() if key not in ("messages", "tools")}
    columns = draw(st.dictionaries(KEYS, st.one_of(st.none(), VALUES), max_size=2))
    return {**columns, **rest, "messages": messages, "tools": tools or None, "functions": None}


def _padded_schema(tool: Json) -> Json:
    schema = tool["function"]["parameters"]
    properties = {name: {**each, "enum": None} for name, each in schema["properties"].items()}
    return {**schema, "properties": {**properties, "colour": None}}


def with_response_keys(message: Json) -> Json:
    """Return an answer with the keys that OpenAI's client dumps."""
    if message["role"] != "assistant":
        return message
    dumped = {"refusal": None, "annotations": [], "audio": None, "function_call": None, "tool_calls": []}
    return {**dumped, **message}


def with_object_arguments(message: Json) -> Json:
    """Return an answer whose calls have objects as arguments, padded with null."""
    if "tool_calls" not in message:
        return message
    calls = [
        {
            "type": call["type"],
            "function": {
                "name": call["function"]["name"],
                "arguments": {**json.loads(call["function"]["arguments"]), "colour": None},
            },
        }
        for call in message["tool_calls"]
    ]
    return {**message, "tool_calls": calls}


def without_ids(message: Json) -> Json:
    """Return the message with null as the id of each call and result."""
    if message["role"] == "tool":
        return {**message, "tool_call_id": None}
    return {
        **message,
        **(
            {"tool_calls": [{**call, "id": None} for call in message["tool_calls"]]}
            if message.get("tool_calls")
            else {}
        ),
    }


SHAREGPT = {"user": ["human", "user"], "assistant": ["gpt", "chatgpt", "model", "GPT"], "system": ["system"]}


@st.composite
def sharegpt_messages(draw: st.DrawFn, messages: Sequence[Json]) -> list[Json]:
    """Write messages with ShareGPT's keys and roles; calls are text of one call."""
    written = []
    for message in messages:
        if message.get("tool_calls"):
            (call,) = message["tool_calls"]
            function = call["function"]
            value = json.dumps({"name": function["name"], "arguments": json.loads(function["arguments"])})
            written.append({"from": draw(st.sampled_from(["function_call", "tool_call"])), "value": value})
        elif message["role"] == "tool":
            role = draw(st.sampled_from(["tool", "observation", "function_response"]))
            written.append({"from": role, "value": message["content"], "name": message["name"]})
        else:
            role = draw(st.sampled_from(SHAREGPT[message["role"]]))
            written.append({"from": role, "value": message["content"]})
    return written


def legacy_row(talk: Talk) -> Json:
    """Write a talk of single calls with ``functions``, ``function_call`` and the role ``function``."""
    messages: list[Json] = []
    for message in talk.messages:
        if message.get("tool_calls"):
            (call,) = message["tool_calls"]
            messages.append({"role": "assistant", "content": None, "function_call": call["function"]})
        elif message["role"] == "tool":
            messages.append({"role": "function", "name": message["name"], "content": message["content"]})
        else:
            messages.append(message)
    return {"messages": messages, "functions": [tool["function"] for tool in talk.tools]}
