"""Lists and objects of a row that stand there as JSON text: tables have no other way to hold them."""

from typing import Any

from adapters import strict_json
from trainer.data.faults import FaultKind, LineFaults, WarningKind, shown
from trainer.data.nulls import without_nulls


def json_value(value: Any) -> Any:
    """Return the object or list that ``value`` is the JSON text of; any other value as it is."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("{", "["):
        return value
    try:
        return without_nulls(strict_json.parse(value.encode()))[0]
    except (ValueError, RecursionError):
        return value


def json_list(value: Any, where: str, faults: LineFaults) -> list[Any]:
    """Return the list that ``value`` is, or is the JSON text of; empty text is an empty list, and so is null.

    Empty, and a fault added, for any other value.
    """
    if isinstance(value, list):
        return value
    listed = [] if isinstance(value, str) and value.strip() in ("", "null") else json_value(value)
    if isinstance(listed, list):
        return listed
    if isinstance(value, str):
        faults.add(FaultKind.WRONG_TYPE, where, f"the text {shown(value)}", "a list, or a list as JSON text")
    else:
        faults.typed(listed, list, where)
    return []


def messages_in(value: Any, faults: LineFaults) -> Any:
    """Return a list for one message, and for JSON text of messages, as CSV has them; any other value as it is."""
    listed = json_value(value)
    if isinstance(listed, dict) and not isinstance(value, str):
        return [listed]
    if not isinstance(value, str) or not isinstance(listed, list) or not listed:
        return value
    if not all(isinstance(item, dict) and not item.keys().isdisjoint(("role", "from")) for item in listed):
        return value
    faults.warn(WarningKind.CONVERTED, "JSON text of messages is read as messages")
    return listed
