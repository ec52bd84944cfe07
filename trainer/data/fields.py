"""Checks of a JSON object's fields: present, of the right type, and no unknown ones."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from trainer.data.faults import FaultKind, LineFaults, shown

_JSON_NAMES: Final[Mapping[type, str]] = {
    str: "a string",
    list: "a list",
    dict: "an object",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    type(None): "null",
}


def inside(where: str, key: str) -> str:
    """Return the path of ``key`` in the object at ``where`` ("": the row itself)."""
    return f"{where}.{key}" if where else key


def only(value: Mapping[str, Any], known: Collection[str], where: str, faults: LineFaults) -> None:
    """Add a fault for every key that is not ``known``."""
    for key in value:
        if key not in known:
            faults.add(FaultKind.UNKNOWN_KEY, inside(where, key), f"the key {shown(key)}", f"one of {', '.join(known)}")


def typed(value: Any, wanted: type, where: str, faults: LineFaults) -> Any:
    """Return ``value`` if its type is ``wanted`` (``true`` is no number), else None and add a fault."""
    if type(value) is wanted:
        return value
    faults.add(FaultKind.WRONG_TYPE, where, _JSON_NAMES[type(value)], _JSON_NAMES[wanted])
    return None


def required(value: Mapping[str, Any], key: str, wanted: type, where: str, faults: LineFaults) -> Any:
    """Return ``value[key]`` if it exists with the type ``wanted``, else None and add a fault."""
    if key in value:
        return typed(value[key], wanted, inside(where, key), faults)
    faults.add(FaultKind.MISSING_KEY, inside(where, key), "nothing", _JSON_NAMES[wanted])
    return None


def text(value: Mapping[str, Any], key: str, where: str, kind: FaultKind, faults: LineFaults) -> str | None:
    """Return the string at ``key``; None, and a fault added, if it is missing, no string, or blank (``kind``)."""
    found: str | None = required(value, key, str, where, faults)
    if found is not None and not found.strip():
        faults.add(kind, inside(where, key), "no text", "some text")
        return None
    return found
