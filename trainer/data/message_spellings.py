"""Messages of other formats, made into OpenAI's: ShareGPT's, and OpenAI's own before there were tools."""

from collections.abc import Mapping
from typing import Any, Final

from trainer.data.faults import FaultKind, LineFaults, WarningKind, shown
from trainer.data.json_text import json_value
from trainer.data.roles import CALL, NAMES

FUNCTIONS_READ: Final = "functions and function_call are read as tools and tool_calls"
"""The warning about OpenAI's retired spelling of tools."""
_OTHER_ROLES: Final = ("function", CALL)
_SPELLINGS: Final[Mapping[str, str]] = {"from": "role", "value": "content"}
_OTHER_KEYS: Final = frozenset({*_SPELLINGS, CALL})
"""Roles and keys of which OpenAI's messages of today have none."""


def openai_message(item: Mapping[str, Any], where: str, faults: LineFaults, *, is_sharegpt: bool) -> dict[str, Any]:
    """Return the message ``item`` with OpenAI's keys and roles.

    Args:
        item: a message with ``role`` and ``content``, or with ShareGPT's ``from`` and ``value``.
        where: its place in the row.
        faults: receives those of a call that cannot be read.
        is_sharegpt: whether ShareGPT's roles are read under ``role`` too; under ``from`` they always are.
    """
    message = dict(item)
    if not is_sharegpt and message.get("role") not in _OTHER_ROLES and _OTHER_KEYS.isdisjoint(message):
        return message
    if is_sharegpt and "role" in message:
        message["role"] = _role(message["role"])
    _rename_keys(message, where, faults)
    if message.get("role") == "function":
        message["role"] = "tool"
    if message.get("role") == CALL:
        _read_call_text(message, where, faults)
    called = message.get(CALL)
    if isinstance(called, dict) and not any(called.values()):
        del message[CALL]
    elif isinstance(called, dict) and not message.get("tool_calls"):
        faults.warn(WarningKind.CONVERTED, FUNCTIONS_READ)
        message["tool_calls"] = [{"function": message.pop(CALL)}]
    elif isinstance(called, dict) and called not in _functions(message["tool_calls"]):
        faults.add(FaultKind.BAD_CALL, f"{where}.{CALL}", "a call that is not in tool_calls", "all calls in tool_calls")
    return message


def _functions(calls: Any) -> list[Any]:
    return [call.get("function") for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []


def _rename_keys(message: dict[str, Any], where: str, faults: LineFaults) -> None:
    """Give ShareGPT's keys OpenAI's names. A fault is added for one beside which the other has another value."""
    for key, name in _SPELLINGS.items():
        if key not in message:
            continue
        value = message.pop(key) if key == "value" else _role(message.pop(key))
        if message.get(name) in (None, ""):
            message[name] = value
        elif message[name] != value:
            faults.add(FaultKind.REPEATED_KEY, f"{where}.{key}", f"another {name}", f"one of {key} and {name}")


def _role(stated: Any) -> Any:
    """Return OpenAI's name of a role of ShareGPT; any other value as it is."""
    return NAMES.get(stated.strip().lower(), stated) if isinstance(stated, str) else stated


def _read_call_text(message: dict[str, Any], where: str, faults: LineFaults) -> None:
    """Make a ShareGPT call, whose content is JSON text of one call or a list of them, into an answer with calls."""
    message["role"] = "assistant"
    content = message.pop("content", None)
    value = json_value(content)
    calls = [value] if isinstance(value, dict) else value
    if not isinstance(calls, list) or not calls:
        needed = '{"name": ..., "arguments": {...}} as JSON text'
        faults.add(FaultKind.BAD_CALL, where, shown(content), needed)
        calls = []
    message["tool_calls"] = [{"function": call} if _is_bare(call) else call for call in calls]


def _is_bare(call: Any) -> bool:
    return isinstance(call, dict) and "name" in call and "function" not in call
