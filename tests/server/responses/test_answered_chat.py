"""Stored answers as chats: what training rows are made of."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from server.responses.answered_chat import AnsweredChat
from server.responses.response_store import StoredResponse

NOW = datetime.now(UTC)
CALL = {"type": "function_call", "call_id": "c1", "name": "add", "arguments": '{"a": 2}'}
AS_CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}}


def response(items: list[Any], output: list[Any], **body: Any) -> AnsweredChat:
    return AnsweredChat.of(StoredResponse("resp_1", NOW, items, {"object": "response", "output": output, **body}))


def spoken(role: str, *texts: str) -> dict[str, Any]:
    kind = "output_text" if role == "assistant" else "input_text"
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text} for text in texts]}


def test_a_completion_is_its_messages_and_its_choices() -> None:
    choices = [{"message": {"role": "assistant", "content": text, "refusal": None, "tool_calls": []}} for text in "ab"]
    body = {"object": "chat.completion", "choices": choices, "tools": [{"type": "function"}]}
    chat = AnsweredChat.of(StoredResponse("chatcmpl-1", NOW, [{"role": "user", "content": "x"}], body))
    assert chat.prompt == [{"role": "user", "content": "x"}]
    assert chat.answers == [{"role": "assistant", "content": text} for text in "ab"]
    assert chat.tools == [{"type": "function"}]


def test_a_response_is_its_instructions_its_items_and_its_output() -> None:
    items = [spoken("user", "2 ", "+ 2?"), {"role": "assistant", "content": "4"}, spoken("user", "sure?")]
    chat = response(items, [{"type": "reasoning", "summary": []}, spoken("assistant", "yes")], instructions="Be brief.")
    assert chat.prompt == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "2 + 2?"},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "sure?"},
    ]
    assert chat.answers == [{"role": "assistant", "content": "yes"}]


def test_calls_and_their_results_are_messages() -> None:
    result = {"type": "function_call_output", "call_id": "c1", "output": "4"}
    tool = {"type": "function", "name": "add", "parameters": {"type": "object"}, "description": None}
    chat = response([spoken("user", "2 + 2?"), CALL, result], [CALL], tools=[tool])
    assert chat.prompt[1:] == [
        {"role": "assistant", "tool_calls": [AS_CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "4"},
    ]
    assert chat.answers == [{"role": "assistant", "tool_calls": [AS_CALL]}]
    assert chat.tools == [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]


@pytest.mark.parametrize(
    "item", [{"type": "web_search_call"}, {"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]
)
def test_what_no_chat_has_is_an_error_that_names_it(item: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"web_search_call|input_image"):
        response([item], [spoken("assistant", "yes")])
