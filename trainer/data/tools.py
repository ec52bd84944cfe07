"""Reads the tools that a row declares, and the calls of them in answers."""

import json
from collections.abc import Set
from typing import Any

from adapters import strict_json
from trainer.data.faults import FaultKind, LineFaults, shown
from trainer.data.rows import Tool


def read_tools(value: Any, where: str, faults: LineFaults) -> tuple[Tool, ...]:
    """Return the declared tools unchanged; faults are added for those that declare no function."""
    if faults.typed(value, list, where) is None:
        return ()
    names: set[str] = set()
    for index, tool in enumerate(value):
        name = _name(tool)
        at = f"{where}[{index}]"
        if name is None:
            faults.add(FaultKind.BAD_TOOL, at, shown(tool), '{"type": "function", "function": {"name": ..., ...}}')
        elif name in names:
            faults.add(FaultKind.REPEATED_TOOL, at, f"{shown(name)} again", "each tool once")
        else:
            names.add(name)
    return tuple(value)


def names(tools: tuple[Tool, ...]) -> frozenset[str]:
    return frozenset(name for tool in tools if (name := _name(tool)) is not None)


def _name(tool: Any) -> str | None:
    if not isinstance(tool, dict) or tool.get("type") != "function" or not isinstance(tool.get("function"), dict):
        return None
    function: dict[str, Any] = tool["function"]
    name, parameters = function.get("name"), function.get("parameters", {})
    return name if isinstance(name, str) and name and isinstance(parameters, dict) else None


def read_calls(value: Any, known: Set[str], where: str, faults: LineFaults) -> tuple[dict[str, Any], ...]:
    """Return an answer's tool calls as a request has them: arguments are JSON text."""
    if faults.typed(value, list, where) is None:
        return ()
    if not value:
        faults.add(FaultKind.BAD_CALL, where, "an empty list", "at least one call, or no such key")
    if value and not known:
        faults.add(FaultKind.CALL_WITHOUT_TOOLS, where, "a call", "the row's `tools` to declare what is called")
    calls = (_call(call, known, f"{where}[{index}]", faults) for index, call in enumerate(value))
    return tuple(call for call in calls if call is not None)


def _call(call: Any, known: Set[str], where: str, faults: LineFaults) -> dict[str, Any] | None:
    is_function = isinstance(call, dict) and call.get("type", "function") == "function"
    function: Any = call.get("function") if is_function else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or not name:
        needed = '{"id": ..., "type": "function", "function": {"name": ..., "arguments": "{...}"}}'
        faults.add(FaultKind.BAD_CALL, where, shown(call), needed)
        return None
    if known and name not in known:
        needed = f"one of {', '.join(sorted(known))}"
        faults.add(FaultKind.UNKNOWN_TOOL, f"{where}.function.name", shown(name), needed)
    arguments = _arguments(function.get("arguments"))
    if arguments is None:
        found = shown(function.get("arguments"))
        faults.add(FaultKind.BAD_ARGUMENTS, f"{where}.function.arguments", found, "a JSON object as a string")
        return None
    return {**call, "type": "function", "function": {**function, "arguments": arguments}}


def _arguments(value: Any) -> str | None:
    """Return the arguments as JSON text; None if they are no object. Several data sets have objects instead of text."""
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    try:
        is_object = isinstance(value, str) and isinstance(strict_json.parse(value.encode()), dict)
    except ValueError:
        return None
    return value if is_object else None
