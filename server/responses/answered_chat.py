"""A stored response or chat completion as a chat: the messages that it answers, and its answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from server.responses.response_store import COMPLETION, StoredResponse

Message = dict[str, Any]

_ANSWER_FIELDS: Final = ("role", "content", "tool_calls")
_TOOL_FIELDS: Final = ("name", "description", "parameters", "strict")
_TEXTS: Final = frozenset({"input_text", "output_text", "text"})


@dataclass(frozen=True, slots=True)
class AnsweredChat:
    """``answers``: the assistant's messages, one for each choice."""

    prompt: Sequence[Message]
    tools: Sequence[Message]
    answers: Sequence[Message]

    @classmethod
    def of(cls, stored: StoredResponse) -> AnsweredChat:
        """Return the chat of ``stored``.

        Raises:
            ValueError: it has items that are no part of a chat; the message names their type.
        """
        body = stored.body
        if body["object"] == COMPLETION:
            messages = [choice["message"] for choice in body["choices"]]
            answers = [{name: each[name] for name in _ANSWER_FIELDS if each.get(name)} for each in messages]
            return cls([dict(message) for message in stored.input], body.get("tools") or (), answers)
        system = [{"role": "system", "content": text}] if isinstance(text := body.get("instructions"), str) else []
        tools = [_tool(tool) for tool in body.get("tools") or ()]
        answer: Message = {"role": "assistant"}
        for message in _messages(body.get("output") or ()):
            answer |= {name: value for name, value in message.items() if value}
        return cls([*system, *_messages(stored.input)], tools, [answer])


def _messages(items: Sequence[Any]) -> Iterator[Message]:
    """Yield the messages that the items of a response are; calls that follow each other are of one message."""
    calls: list[Message] = []
    for item in items:
        kind = item.get("type") or "message"
        if kind == "function_call":
            function = {"name": item["name"], "arguments": item["arguments"]}
            calls.append({"id": item["call_id"], "type": "function", "function": function})
            continue
        if calls:
            yield {"role": "assistant", "tool_calls": calls}
            calls = []
        if kind == "message":
            yield {"role": item["role"], "content": _text(item.get("content"))}
        elif kind == "function_call_output":
            yield {"role": "tool", "tool_call_id": item["call_id"], "content": _text(item["output"])}
        elif kind != "reasoning":
            raise ValueError(f"an item of the type {kind!r:.80}")
    if calls:
        yield {"role": "assistant", "tool_calls": calls}


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    if strange := [part.get("type") for part in parts if part.get("type") not in _TEXTS]:
        raise ValueError(f"content of the type {strange[0]!r:.80}")
    return "".join(part["text"] for part in parts)


def _tool(tool: Mapping[str, Any]) -> Message:
    """Return a tool of a response as chat completions have it."""
    if tool.get("type") != "function" or "function" in tool:
        return dict(tool)
    fields = {
        name: tool[name] for name in ("name", "description", "parameters", "strict") if tool.get(name) is not None
    }
    return {"type": "function", "function": fields}
