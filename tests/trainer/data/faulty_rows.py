"""Lines that cannot be trained on, each with the kind of its one fault."""

from __future__ import annotations

from typing import Any

from trainer.data import containers
from trainer.data.faults import FaultKind

USER = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Hello"}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


def chat(*messages: Any, **more: Any) -> dict[str, Any]:
    return {"messages": list(messages), **more}


def call(name: str = "add", arguments: Any = "{}", call_id: str = "1") -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"role": "assistant", "tool_calls": [{"id": call_id, "type": "function", "function": function}]}


def result(call_id: str = "1") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": "3"}


def preference(**changed: Any) -> dict[str, Any]:
    worse = {"role": "assistant", "content": "No"}
    row = {"input": {"messages": [USER]}, "preferred_output": [ANSWER], "non_preferred_output": [worse]}
    return row | changed


LINES: list[tuple[FaultKind, bytes]] = [
    (FaultKind.BAD_JSON, b'{"messages": ['),
    (FaultKind.BAD_JSON, b"{'messages': []}"),
    (FaultKind.BAD_JSON, b"{} {}"),
    (FaultKind.NOT_UTF8, b'{"messages": "caf\xe9"}'),
    (FaultKind.REPEATED_KEY, b'{"messages": [], "messages": []}'),
    (FaultKind.NOT_A_NUMBER, b'{"messages": NaN}'),
    (FaultKind.NOT_A_NUMBER, b'{"messages": [-Infinity]}'),
    (FaultKind.TOO_DEEP, b"[" * 100_000),
    (FaultKind.LONE_SURROGATE, b'{"messages": "\\ud800"}'),
    (FaultKind.NUL_CHARACTER, b'{"messages": "a\\u0000"}'),
    (FaultKind.NOT_AN_OBJECT, b"[]"),
    (FaultKind.NOT_AN_OBJECT, b"null"),
    (FaultKind.UNKNOWN_FORMAT, b"{}"),
    (FaultKind.UNKNOWN_FORMAT, b'{"story": "Once upon a time"}'),
    (FaultKind.MIXED_FORMATS, b'{"text": "Once upon a time"}'),
    (FaultKind.LINE_TOO_LONG, b'{"messages": "' + b"a" * containers.MAX_LINE_BYTES + b'"}'),
]
CHATS: list[tuple[FaultKind, Any]] = [
    (FaultKind.MIXED_FORMATS, {"prompt": "a", "completion": "b"}),
    (FaultKind.UNSUPPORTED_PART, chat(USER, ANSWER, images=[{"path": "a.png"}])),
    (FaultKind.UNSUPPORTED_PART, chat({**USER, "audio": {"id": "a"}}, ANSWER)),
    (FaultKind.UNSUPPORTED_PART, chat({"role": "user", "content": [{"type": "text", "text": "a", "image_url": 1}]})),
    (FaultKind.UNSUPPORTED_PART, chat(USER, ANSWER, image="a.png")),
    (FaultKind.BAD_TOOL, chat({"role": "system", "content": "a", "tools": [TOOL]}, USER, ANSWER)),
    (FaultKind.BAD_WEIGHT, chat(USER, {**ANSWER, "mask": True})),
    (FaultKind.WRONG_TYPE, {"messages": {"role": ["user", "assistant"], "content": ["a"]}}),
    (FaultKind.WRONG_TYPE, {"messages": {}}),
    (FaultKind.WRONG_TYPE, chat("Hi", ANSWER)),
    (FaultKind.WRONG_TYPE, chat({"role": 1, "content": "Hi"}, ANSWER)),
    (FaultKind.WRONG_TYPE, chat({"role": "user", "content": 5}, ANSWER)),
    (FaultKind.MISSING_KEY, chat({"content": "Hi"}, ANSWER)),
    (FaultKind.MISSING_KEY, chat({"role": "user"}, ANSWER)),
    (FaultKind.NO_MESSAGES, chat()),
    (FaultKind.WRONG_ROLE, chat({"role": "human", "content": "Hi"}, ANSWER)),
    (FaultKind.ROLE_ORDER, chat(ANSWER)),
    (FaultKind.ROLE_ORDER, chat(ANSWER, USER)),
    (FaultKind.ROLE_ORDER, chat(USER, result(), ANSWER, tools=[TOOL])),
    (FaultKind.NO_ANSWER, chat(USER)),
    (FaultKind.EMPTY_ANSWER, chat(USER, {"role": "assistant", "content": " \n"})),
    (FaultKind.EMPTY_ANSWER, chat(USER, {"role": "assistant", "content": None})),
    (FaultKind.EMPTY_PROMPT, chat({"role": "user", "content": ""}, ANSWER)),
    (FaultKind.UNSUPPORTED_PART, chat({"role": "user", "content": [{"type": "image_url"}]}, ANSWER)),
    (FaultKind.BAD_WEIGHT, chat(USER, {**ANSWER, "weight": 0.5})),
    (FaultKind.BAD_WEIGHT, chat(USER, {**ANSWER, "weight": "1"})),
    (FaultKind.WEIGHT_ELSEWHERE, chat({**USER, "weight": 1}, ANSWER)),
    (FaultKind.NOTHING_TRAINED, chat(USER, {**ANSWER, "weight": 0})),
    (FaultKind.BAD_TOOL, chat(USER, ANSWER, tools=[{"title": "add"}])),
    (FaultKind.BAD_TOOL, chat(USER, ANSWER, tools=[{"type": "web_search"}])),
    (FaultKind.BAD_TOOL, chat(USER, ANSWER, tools=[{"name": "add", "parameters": "none"}])),
    (FaultKind.WRONG_TYPE, chat(USER, ANSWER, tools="add")),
    (FaultKind.REPEATED_TOOL, chat(USER, ANSWER, tools=[TOOL, TOOL])),
    (FaultKind.CALL_WITHOUT_TOOLS, chat(USER, call())),
    (FaultKind.UNKNOWN_TOOL, chat(USER, call("subtract"), tools=[TOOL])),
    (FaultKind.BAD_CALL, chat(USER, {"role": "assistant", "tool_calls": [{"name": "add"}]}, tools=[TOOL])),
    (FaultKind.EMPTY_ANSWER, chat(USER, {"role": "assistant", "tool_calls": []}, tools=[TOOL])),
    (FaultKind.BAD_CALL, chat({**USER, "tool_calls": call()["tool_calls"]}, ANSWER, tools=[TOOL])),
    (FaultKind.BAD_ARGUMENTS, chat(USER, call(arguments="{a: 1}"), tools=[TOOL])),
    (FaultKind.BAD_ARGUMENTS, chat(USER, call(arguments="[1]"), tools=[TOOL])),
    (FaultKind.UNKNOWN_CALL_ID, chat(USER, call(), result("2"), result(), ANSWER, tools=[TOOL])),
    (FaultKind.REPEATED_KEY, chat(USER, {**ANSWER, "reasoning": "a", "reasoning_content": "b"})),
    (FaultKind.REPEATED_KEY, chat(USER, {**ANSWER, "reasoning": "a", "thinking": "b"})),
    (FaultKind.REPEATED_KEY, chat(USER, {**ANSWER, "value": "another"})),
    (FaultKind.REPEATED_KEY, chat({**USER, "from": "gpt"}, ANSWER)),
    (FaultKind.WRONG_TYPE, {"messages": "[{'role': 'user', 'content': 'a'}\n {'role': 'assistant', 'content': 'b'}]"}),
    (FaultKind.WRONG_TYPE, {"messages": "[{'role': 'user',  'content': 'a'}]"}),
    (FaultKind.WRONG_TYPE, {"messages": "[{'role': 'user', 'content': 'a' 'b'}]"}),
    (FaultKind.WRONG_TYPE, {"messages": "[{'role': 'user', 'content': ('a',)}]"}),
    (FaultKind.WRONG_TYPE, {"messages": "[dict(role='user')]"}),
    (FaultKind.REPEATED_KEY, chat({"role": "system", "content": "a"}, USER, ANSWER, system="b")),
    (FaultKind.UNANSWERED_CALL, chat(USER, call(), USER, ANSWER, tools=[TOOL])),
]
CHAT_PAIR = {"chosen": [USER, ANSWER], "rejected": [USER, {"role": "assistant", "content": "No"}]}
PAIRS: list[tuple[FaultKind, Any]] = [
    (FaultKind.MISSING_KEY, {"chosen": "a"}),
    (FaultKind.MISSING_KEY, {"chosen": [ANSWER], "rejected": "b"}),
    (FaultKind.WRONG_TYPE, {"prompt": "a", "chosen": 5.5, "rejected": "b"}),
    (FaultKind.WRONG_TYPE, {"prompt": "[{'role': 'user', 'content': 'a'", "chosen": "a", "rejected": "b"}),
    (FaultKind.SAME_ANSWERS, {"chosen": "a", "rejected": "a"}),
    (FaultKind.SAME_ANSWERS, {**CHAT_PAIR, "rejected": CHAT_PAIR["chosen"]}),
    (FaultKind.EMPTY_ANSWER, {"prompt": "a", "chosen": "b", "rejected": " "}),
    (FaultKind.WRONG_ROLE, {"prompt": "a", "chosen": [USER], "rejected": [ANSWER]}),
    (
        FaultKind.NO_ANSWER,
        {"chosen": [USER, ANSWER, USER, ANSWER], "rejected": [USER, {"role": "assistant", "content": "No"}]},
    ),
    (FaultKind.PROMPT_DIFFERS, {"prompt": "another", **CHAT_PAIR}),
    (FaultKind.ROLE_ORDER, {"prompt": [USER, ANSWER], "chosen": "a", "rejected": "b"}),
    (FaultKind.MIXED_FORMATS, {"prompt": "a", "completion": "b"}),
]
PREFERENCES: list[tuple[FaultKind, Any]] = [
    (FaultKind.SAME_ANSWERS, preference(non_preferred_output=[ANSWER])),
    (FaultKind.NO_ANSWER, preference(preferred_output=[])),
    (FaultKind.WRONG_ROLE, preference(preferred_output=[USER])),
    (FaultKind.ROLE_ORDER, preference(input={"messages": [USER, ANSWER]})),
    (FaultKind.MISSING_KEY, {"preferred_output": [ANSWER]}),
    (FaultKind.NO_MESSAGES, preference(input={"messages": []})),
    (FaultKind.EMPTY_ANSWER, preference(preferred_output=[{"role": "assistant", "content": " "}])),
]
