"""Null in a row means that the key is not there: tables write it for each key that another row has."""

from collections.abc import Mapping
from typing import Any, Final

_ALTERNATIVES: Final = ("anyOf", "oneOf")
_OF_SCHEMAS: Final = ("default", "const")


def without_nulls(value: Any) -> tuple[Any, bool]:
    """Return a JSON value without keys that are null, at every depth, and whether a key but ``content`` was left out.

    An object of nothing but nulls is left out too. Kept are ``arguments`` of calls, which
    ``trainer.data.tool_calls`` reads, and the ``default`` of a JSON schema that allows null. An answer of tool calls
    alone has null as its ``content`` in OpenAI's own rows.
    """
    if isinstance(value, list):
        items = [without_nulls(item) for item in value]
        return [item for item, _ in items], any(found for _, found in items)
    if not isinstance(value, dict):
        return value, False
    kept: dict[str, Any] = {}
    is_padded = False
    for key, inner in value.items():
        if inner is None:
            if key in _OF_SCHEMAS and allows_null(value):
                kept[key] = None
            elif key != "content":
                is_padded = True
        elif key == "arguments":
            kept[key] = inner
        else:
            rest, found = without_nulls(inner)
            is_padded = is_padded or found
            if rest != {} or inner == {}:
                kept[key] = rest
    return kept, is_padded


def allows_null(schema: Mapping[str, Any]) -> bool:
    """Whether a JSON schema says that null is a value."""
    kind = schema.get("type")
    if kind == "null" or (isinstance(kind, list) and "null" in kind) or schema.get("nullable") is True:
        return True
    enum = schema.get("enum")
    if isinstance(enum, list) and None in enum:
        return True
    listed = (item for key in _ALTERNATIVES if isinstance(schema.get(key), list) for item in schema[key])
    return any(isinstance(item, dict) and allows_null(item) for item in listed)


def without_padding(arguments: Mapping[str, Any], schema: Any) -> dict[str, Any]:
    """Return a call's arguments without null for those parameters that may not be null by the tool's ``schema``."""
    properties = schema.get("properties") if isinstance(schema, dict) else None
    known: Mapping[str, Any] = properties if isinstance(properties, dict) else {}
    kept: dict[str, Any] = {}
    for key, value in arguments.items():
        parameter = known.get(key)
        if isinstance(value, dict):
            kept[key] = without_padding(value, parameter)
        elif value is not None or (isinstance(parameter, dict) and allows_null(parameter)):
            kept[key] = value
    return kept
