"""Conversations as a chat completion request has them, drawn: roles, tools, calls, results, reasoning, turns."""

import json
from typing import Any

from hypothesis import strategies as st

Json = dict[str, Any]

TOOLS = (
    {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}},
    {
        "function": {"description": "Größe eines Pakets", "strict": True, "name": "size", "parameters": {}, "x-own": 1},
        "type": "function",
    },
)
TEXT = st.text("aä \n<|>{}[]\"'", min_size=1, max_size=12).filter(str.strip) | st.sampled_from(
    ["Hi", "<think>", "</think> ok", "<|im_end|>", "日本", "[INST]", "<tool_call>"]
)
ARGUMENTS = st.dictionaries(st.sampled_from(["city", "Größe"]), TEXT | st.integers(-5, 5) | st.none(), max_size=2)


@st.composite
def calling_turns(draw: st.DrawFn) -> list[Json]:
    """Draw an answer of one or two tool calls, their results, and an answer that uses them."""
    names = draw(st.lists(st.sampled_from(["weather", "size"]), min_size=1, max_size=2))
    calls = [
        {
            "id": f"call{n}xyz12",
            "type": "function",
            "function": {"name": name, "arguments": json.dumps(draw(ARGUMENTS))},
        }
        for n, name in enumerate(names)
    ]
    results = [{"role": "tool", "tool_call_id": call["id"], "content": draw(TEXT)} for call in calls]
    return [
        {"role": "assistant", "content": draw(TEXT | st.none()), "tool_calls": calls},
        *results,
        draw(answers()),
    ]


@st.composite
def answers(draw: st.DrawFn) -> Json:
    reasoning = draw(st.none() | TEXT)
    return {"role": "assistant", "content": draw(TEXT), **({"reasoning": reasoning} if reasoning else {})}


@st.composite
def conversations(draw: st.DrawFn) -> Json:
    messages: list[Json] = []
    has_tools = draw(st.booleans())
    if (role := draw(st.sampled_from([None, "system", "developer"]))) is not None:
        messages.append({"role": role, "content": draw(TEXT)})
    for _ in range(draw(st.integers(1, 3))):
        messages.append({"role": "user", "content": draw(TEXT)})
        if draw(st.integers(0, 9)) == 0:
            messages.append({"role": draw(st.sampled_from(["system", "developer", "user"])), "content": draw(TEXT)})
        messages += draw(calling_turns()) if has_tools and draw(st.booleans()) else [draw(answers())]
    return {"messages": messages, **({"tools": list(TOOLS)} if has_tools else {})}
