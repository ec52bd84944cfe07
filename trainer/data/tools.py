"""Reads the tools that a row declares, as a request's ``tools`` or in other spellings with the same meaning."""

from typing import Any

from trainer.data.faults import FaultKind, LineFaults, WarningKind, inside, shown
from trainer.data.json_text import json_list, json_value
from trainer.data.message_spellings import FUNCTIONS_READ
from trainer.data.rows import Tool


def pop_tools(row: dict[str, Any], where: str, faults: LineFaults) -> tuple[Tool, ...]:
    """Remove ``tools``, or OpenAI's retired ``functions``, from the object at ``where``; return the tools.

    They may be a list, or a list as JSON text. A fault is added for each item that declares no function.
    """
    if "tools" not in row and "functions" not in row:
        return ()
    key = "tools" if row.get("tools") or "functions" not in row else "functions"
    listed = json_list(row.pop(key, []), inside(where, key), faults)
    if listed and key == "functions":
        faults.warn(WarningKind.CONVERTED, FUNCTIONS_READ)
    tools: dict[str, Tool] = {}
    for index, item in enumerate(listed):
        at = f"{inside(where, key)}[{index}]"
        tool = _tool(json_value(item))
        if tool is None:
            faults.add(FaultKind.BAD_TOOL, at, shown(item), '{"type": "function", "function": {"name": ..., ...}}')
        elif (name := tool["function"]["name"]) in tools:
            faults.add(FaultKind.REPEATED_TOOL, at, f"{shown(name)} again", "each tool once")
        else:
            tools[name] = tool
    if key == "tools" and "functions" in row:
        others = {tool["function"]["name"] for tool in pop_tools({"functions": row.pop("functions")}, where, faults)}
        if further := others - tools.keys():
            found, needed = f"{shown(min(further))}, which is not in tools", "all functions in tools"
            faults.add(FaultKind.AMBIGUOUS_COLUMNS, inside(where, "functions"), found, needed)
    return tuple(tools.values())


def schemas(tools: tuple[Tool, ...]) -> dict[str, Any]:
    """Return for each tool's name the JSON schema of its parameters; {} where it has none."""
    return {tool["function"]["name"]: tool["function"].get("parameters", {}) for tool in tools}


def _tool(item: Any) -> Tool | None:
    """Return the tool that ``item`` declares, which may be the bare function; None if it declares none."""
    if not isinstance(item, dict) or item.get("type", "function") != "function":
        return None
    wrapper = item if "function" in item else {"function": {key: item[key] for key in item if key != "type"}}
    function = json_value(wrapper["function"])
    if not isinstance(function, dict) or not isinstance(name := function.get("name"), str) or not name:
        return None
    if "parameters" in function:
        function = {**function, "parameters": json_value(function["parameters"])}
        if not isinstance(function["parameters"], dict):
            return None
    return {**wrapper, "type": "function", "function": function}
