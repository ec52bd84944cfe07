"""Reads the tool calls of answers, and finds the call that each tool message answers."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adapters import strict_json
from trainer.data.faults import FaultKind, LineFaults, WarningKind, shown
from trainer.data.json_text import json_list, json_value
from trainer.data.nulls import without_padding

Schemas = Mapping[str, Any]
"""For each tool's name the JSON schema of its parameters."""
_CALL = '{"id": ..., "type": "function", "function": {"name": ..., "arguments": "{...}"}}'


def read_calls(value: Any, schemas: Schemas, where: str, faults: LineFaults) -> list[dict[str, Any]]:
    """Return an answer's tool calls as a request has them: arguments are JSON text. A call without ``id`` gets none."""
    listed = json_list(value, where, faults)
    if listed and not schemas:
        faults.add(FaultKind.CALL_WITHOUT_TOOLS, where, "a call", "the row's `tools` to declare what is called")
    calls = (_call(json_value(call), schemas, f"{where}[{index}]", faults) for index, call in enumerate(listed))
    return [call for call in calls if call is not None]


def read_id(value: Any, where: str, faults: LineFaults) -> str | None:
    """Return the id of a call, which may be a whole number; None for no id or an empty one."""
    if isinstance(value, int | float) and not isinstance(value, bool) and value % 1 == 0:
        return str(int(value))
    return None if value is None else faults.typed(value, str, where) or None


def _call(call: Any, schemas: Schemas, where: str, faults: LineFaults) -> dict[str, Any] | None:
    is_function = isinstance(call, dict) and call.get("type", "function") == "function"
    function: Any = json_value(call.get("function", call if "arguments" in call else None)) if is_function else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or not name:
        faults.add(FaultKind.BAD_CALL, where, shown(call), _CALL)
        return None
    if schemas and name not in schemas:
        needed = f"one of {', '.join(sorted(schemas))}"
        faults.add(FaultKind.UNKNOWN_TOOL, f"{where}.function.name", shown(name), needed)
    stated = function.get("arguments", function.get("parameters"))  # Llama's spelling
    arguments = _arguments(stated, schemas.get(name), faults)
    if arguments is None:
        found = shown(stated)
        faults.add(FaultKind.BAD_ARGUMENTS, f"{where}.function.arguments", found, "a JSON object, or one as a string")
        return None
    call_id = read_id(call.get("id"), f"{where}.id", faults)
    identified = {} if call_id is None else {"id": call_id}
    return {**identified, "type": "function", "function": {"name": name, "arguments": arguments}}


def _arguments(value: Any, schema: Any, faults: LineFaults) -> str | None:
    """Return the arguments as JSON text; None if they are no object. No arguments are an empty object."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return "{}"
    if isinstance(value, dict):
        kept = without_padding(value, schema)
        if kept != value:
            faults.warn(WarningKind.NULL_VALUE, "null as an argument that may not be null is read as 'not there'")
        return json.dumps(kept, ensure_ascii=False)
    try:
        is_object = isinstance(value, str) and isinstance(strict_json.parse(value.encode()), dict)
    except ValueError:
        return None
    return value if is_object else None


@dataclass(slots=True)
class _OpenCall:
    """A call that waits for its result; ``made`` is whether its id is ours."""

    call: dict[str, Any]
    caller: int
    made: bool


def match_results(messages: Sequence[dict[str, Any]], where: str, faults: LineFaults) -> None:
    """Give each call and result without an id one, so that both have the same.

    A result belongs to the call with its id, or without one to the first open call of its ``name``, or of any name.
    Faults are added for results without such a call, and for calls without a result right after them.
    """
    open_calls: list[_OpenCall] = []
    number = 0
    for index, message in enumerate(messages):
        if message["role"] == "tool":
            at = f"{where}[{index}]"
            answered = _answered(message, open_calls)
            if answered is not None:
                open_calls.remove(answered)
                _share_id(message, answered, faults)
            elif "tool_call_id" in message and open_calls:
                found, needed = shown(message["tool_call_id"]), "the id of a call still without a result"
                faults.add(FaultKind.UNKNOWN_CALL_ID, f"{at}.tool_call_id", found, needed)
            else:
                faults.add(FaultKind.ROLE_ORDER, f"{at}.role", "a result without a call", "tool after tool_calls")
            continue
        for waiting in open_calls:
            at = f"{where}[{waiting.caller}].tool_calls"
            found = f"no result for {shown(waiting.call['id'])}"
            faults.add(FaultKind.UNANSWERED_CALL, at, found, "a tool message right after")
        open_calls = []
        for call in message.get("tool_calls", ()):
            made = "id" not in call
            if made:
                call["id"] = f"call{number:05}"  # nine letters and digits: Mistral's templates take no others
                faults.warn(WarningKind.MADE_ID, "calls or results without an id: ids are made")
            number += 1
            open_calls.append(_OpenCall(call, index, made))


def _answered(result: Mapping[str, Any], open_calls: Sequence[_OpenCall]) -> _OpenCall | None:
    """Return the open call that ``result`` answers; None if there is none."""
    if (stated := result.get("tool_call_id")) is not None:
        if exact := [each for each in open_calls if each.call["id"] == stated]:
            return exact[0]
        candidates = [each for each in open_calls if each.made]
    else:
        candidates = list(open_calls)
    same_name = [each for each in candidates if each.call["function"]["name"] == result.get("name")]
    return next(iter(same_name or candidates), None)


def _share_id(result: dict[str, Any], answered: _OpenCall, faults: LineFaults) -> None:
    """Set the id of the call in its result, or the other way round where only the result states one."""
    if "tool_call_id" in result:
        answered.call["id"] = result["tool_call_id"]
    else:
        result["tool_call_id"] = answered.call["id"]
        faults.warn(WarningKind.MADE_ID, "calls or results without an id: ids are made")
