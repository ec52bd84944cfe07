"""Reads lists of messages: their content, their order, and which answers are trained."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

from trainer.data.faults import FaultKind, LineFaults, shown
from trainer.data.rows import Message, Tool
from trainer.data.tools import names, read_calls

_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "system": ("role", "content", "name"),
    "developer": ("role", "content", "name"),
    "user": ("role", "content", "name"),
    "assistant": ("role", "content", "name", "tool_calls", "reasoning_content", "weight"),
    "tool": ("role", "content", "name", "tool_call_id"),
}
_LEADING: Final = frozenset({"system", "developer"})


def read_messages(
    value: list[Any], tools: tuple[Tool, ...], where: str, faults: LineFaults
) -> tuple[tuple[Message, ...], tuple[bool, ...]]:
    """Return the messages as a request has them, and for each whether it is trained.

    Both are valid only if no fault was added.
    """
    if not value:
        faults.add(FaultKind.NO_MESSAGES, where, "an empty list", "a user's message and an answer")
        return (), ()
    before = len(faults.found)
    read = [_message(item, tools, f"{where}[{index}]", faults) for index, item in enumerate(value)]
    messages = tuple(message for message, _ in read)
    if len(faults.found) == before:  # a broken message would be a fault of the order too
        _check_order(messages, where, faults)
    if len(faults.found) == before:
        _check_calls(messages, where, faults)
    return messages, tuple(trained for _, trained in read)


def read_answer(value: list[Any], tools: tuple[Tool, ...], where: str, faults: LineFaults) -> Message:
    """Return the answer in a list of one message, as OpenAI's preference rows have it."""
    if len(value) != 1:
        faults.add(FaultKind.NO_ANSWER, where, f"{len(value)} messages", "exactly one, of the assistant")
        return {}
    message, _ = _message(value[0], tools, f"{where}[0]", faults)
    if not faults and message["role"] != "assistant":
        faults.add(FaultKind.WRONG_ROLE, f"{where}[0].role", shown(message["role"]), '"assistant"')
    return message


def _message(item: Any, tools: tuple[Tool, ...], where: str, faults: LineFaults) -> tuple[Message, bool]:
    if faults.typed(item, dict, where) is None or (role := faults.required(item, "role", str, where)) is None:
        return {}, False
    if role not in _KEYS:
        faults.add(FaultKind.WRONG_ROLE, f"{where}.role", shown(role), f"one of {', '.join(_KEYS)}")
        return {}, False
    if role != "assistant" and "weight" in item:
        faults.add(FaultKind.WEIGHT_ELSEWHERE, f"{where}.weight", f"a weight on {role}", "weights on assistant alone")
    faults.check_keys({key: item[key] for key in item if key != "weight"}, _KEYS[role], where)
    message: dict[str, Any] = {"role": role, "content": _content(item, f"{where}.content", faults)}
    for key in ("name", "tool_call_id", "reasoning_content"):
        if key in item and faults.typed(item[key], str, f"{where}.{key}") is not None:
            message[key] = item[key]
    if role == "tool" and "tool_call_id" not in item:
        faults.add(FaultKind.MISSING_KEY, f"{where}.tool_call_id", "nothing", "the id of the call that this answers")
    if role != "assistant":
        return message, False
    weight = item.get("weight", 1)
    if type(weight) is not int or weight not in (0, 1):
        faults.add(FaultKind.BAD_WEIGHT, f"{where}.weight", shown(weight), "0 or 1")
    if "tool_calls" in item:
        message["tool_calls"] = read_calls(item["tool_calls"], names(tools), f"{where}.tool_calls", faults)
    return message, weight == 1


def _content(item: Mapping[str, Any], where: str, faults: LineFaults) -> str | None:
    """Return the text of a message, None for tool calls alone. Parts are joined with a newline, as vLLM does."""
    content, role, before = item.get("content"), item["role"], len(faults.found)
    if content is None and role != "assistant":
        faults.add(FaultKind.MISSING_KEY, where, "nothing", "a string")
    elif isinstance(content, list):
        content = "\n".join(_part(part, f"{where}[{index}]", faults) for index, part in enumerate(content))
    elif content is not None:
        faults.typed(content, str, where)
    if len(faults.found) == before and not (content or "").strip():
        if role == "user":
            faults.add(FaultKind.EMPTY_PROMPT, where, "no text", "a text")
        elif role == "assistant" and "tool_calls" not in item:
            faults.add(FaultKind.EMPTY_ANSWER, where, "no text and no tool call", "an answer")
    return content


def _part(part: Any, where: str, faults: LineFaults) -> str:
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(text := part.get("text"), str):
        return text
    faults.add(FaultKind.UNSUPPORTED_PART, where, shown(part), '{"type": "text", "text": ...}')
    return ""


def _check_order(messages: Sequence[Message], where: str, faults: LineFaults) -> None:
    """Add faults of the order: system first, a user before any answer, tool results only after calls."""
    roles = [message["role"] for message in messages]
    has_turn = False
    for index, role in enumerate(roles):
        at = f"{where}[{index}].role"
        if role in _LEADING and any(earlier not in _LEADING for earlier in roles[:index]):
            faults.add(FaultKind.ROLE_ORDER, at, f"{role} after {roles[index - 1]}", f"{role} before all others")
        if role == "assistant" and not has_turn:
            faults.add(FaultKind.ROLE_ORDER, at, "an answer to nothing", "a user's message before it")
        has_turn = has_turn or role in {"user", "assistant"}
    for index, (earlier, role) in enumerate(pairwise(["", *roles])):
        if role == "tool" and earlier not in {"assistant", "tool"}:
            found = f"tool after {earlier or 'nothing'}"
            faults.add(FaultKind.ROLE_ORDER, f"{where}[{index}].role", found, "tool after the assistant's tool_calls")


def _check_calls(messages: Sequence[Message], where: str, faults: LineFaults) -> None:
    """Add faults of results without a call before them, and of calls without a result right after them."""
    waiting: dict[str, int] = {}
    for index, message in enumerate(messages):
        if message["role"] == "tool":
            if waiting.pop(message["tool_call_id"], None) is None:
                found, needed = shown(message["tool_call_id"]), "the id of a call still without a result"
                faults.add(FaultKind.UNKNOWN_CALL_ID, f"{where}[{index}].tool_call_id", found, needed)
            continue
        for call_id, caller in waiting.items():
            at = f"{where}[{caller}].tool_calls"
            faults.add(FaultKind.UNANSWERED_CALL, at, f"no result for {shown(call_id)}", "a tool message right after")
        calls = message.get("tool_calls", ())
        waiting = {str(call.get("id")): index for call in calls}
