"""Checks items against the JSON schema of an eval.

Callers write the schemas, so a schema may cost no more than it helps: no regular expressions, which can take hours on
a short text, no references to other documents, and a bounded time in all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from time import monotonic
from typing import Any, Final

from jsonschema import Draft202012Validator, SchemaError, validators
from referencing.exceptions import Unresolvable

from trainer.errors import InvalidField
from trainer.evals.faults import Faults

MAX_S: Final = 20.0
"""Seconds that the check of all items of a run may take."""

MAX_SCHEMA_BYTES: Final = 64 << 10
"""A schema of 600 kB takes some seconds of a core to check."""

_NOTES: Final = frozenset(
    {"$schema", "$comment", "title", "description", "default", "examples", "format", "deprecated", "readOnly"}
    | {"writeOnly"}
)
"""Keywords that check nothing."""
_VALUES: Final = frozenset(
    {"type", "enum", "const", "required", "minItems", "maxItems", "minLength", "maxLength", "minimum", "maximum"}
    | {"exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minProperties", "maxProperties", "$ref"}
    | {"dependentRequired", "minContains", "maxContains"}
)
_ONE: Final = frozenset({"additionalProperties", "items", "not", "if", "then", "else", "contains"})
"""Keywords that hold a schema."""
_SEVERAL: Final = frozenset({"anyOf", "allOf", "oneOf", "prefixItems"})
_NAMED: Final = frozenset({"properties", "$defs", "definitions", "dependentSchemas"})
KEYWORDS: Final = _NOTES | _VALUES | _ONE | _SEVERAL | _NAMED


class _TooSlow(Exception):
    """The check took ``MAX_S``."""


def check_schema(schema: Mapping[str, Any], where: str) -> None:
    """Check that ``schema`` is one that items can be checked against. ``where``: its path in the request. Blocks.

    Raises:
        InvalidField: it is none, is too long, or has keywords that this server does not check; lists all of those.
    """
    faults = Faults()
    for keyword, value in _keywords(schema):
        if keyword not in KEYWORDS:
            faults.add(where, f"the keyword {keyword!r:.80} is not checked by this server: leave it out")
        elif keyword == "$ref" and not (isinstance(value, str) and value.startswith("#")):
            faults.add(where, f"$ref {value!r:.80} is no part of this schema: refer to #/$defs/…")
    faults.check()
    try:
        if (size := len(json.dumps(schema))) > MAX_SCHEMA_BYTES:
            raise InvalidField(f"{where}: has {size} bytes; at most {MAX_SCHEMA_BYTES}", param=where)
        Draft202012Validator.check_schema(schema)
    except (SchemaError, RecursionError) as invalid:
        reason = invalid.message if isinstance(invalid, SchemaError) else "it is nested too deeply"
        raise InvalidField(f"{where}: no JSON schema: {reason:.300}", param=where) from None


def check_items(schema: Mapping[str, Any], items: Sequence[tuple[str, Mapping[str, Any]]], faults: Faults) -> None:
    """Add the faults of ``items`` against a checked ``schema``; each item stands beside its path in the request.

    Blocks for ``MAX_S`` seconds at most.

    Raises:
        InvalidField: the check takes too long, or a reference leads nowhere.
    """
    validator = _bounded()(schema)
    try:
        for where, item in items:
            for error in validator.iter_errors(item):
                path = ".".join([where, *map(str, error.absolute_path)])
                faults.add(path, f"{error.message[:200]}, which the eval's item_schema does not allow")
    except _TooSlow:
        reason = f"the items take more than {MAX_S:g} s to check: send fewer, or write a simpler schema"
    except RecursionError:
        reason = "it refers to itself without end, or an item is nested too deeply"
    except Unresolvable as unresolved:
        reason = f"a $ref leads nowhere: {unresolved}"[:300]
    else:
        return
    raise InvalidField(f"item_schema: {reason}", param="item_schema")


def _keywords(schema: object) -> Iterator[tuple[str, Any]]:
    """Yield every keyword of a schema and its subschemas with its value. No recursion: they may be nested deeply."""
    pending = [schema]
    while pending:
        part = pending.pop()
        if not isinstance(part, Mapping):
            continue
        yield from part.items()
        for keyword, value in part.items():
            if keyword in _ONE:
                pending.append(value)
            elif keyword in _SEVERAL and isinstance(value, list):
                pending += value
            elif keyword in _NAMED and isinstance(value, Mapping):
                pending += value.values()


def _bounded() -> Any:
    """Return a validator class that raises ``_TooSlow`` after ``MAX_S`` seconds."""
    deadline = monotonic() + MAX_S

    def timed(check: Callable[..., Any]) -> Callable[..., Any]:
        def checked(*args: Any) -> Any:
            if monotonic() > deadline:
                raise _TooSlow
            return check(*args)

        return checked

    checks = {name: timed(check) for name, check in Draft202012Validator.VALIDATORS.items() if name in KEYWORDS}
    return validators.extend(Draft202012Validator, checks)
