"""From the JSON that defines a grader to the grader, or to the field that is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from trainer.errors import InvalidField
from trainer.graders.grader import Grader
from trainer.graders.multi import MultiGrader, Single

_ANY: Final[TypeAdapter[Grader]] = TypeAdapter(Annotated[Single | MultiGrader, Field(discriminator="type")])

_TAG_ERRORS: Final = frozenset({"union_tag_invalid", "union_tag_not_found"})
_SAYS_ALL: Final = frozenset({"missing", "python", "formula", "labels", "range", "template"})
"""Errors whose message needs no word about what was found."""


def parse(value: Mapping[str, Any], where: str) -> Grader:
    """Return the grader that ``value`` defines. ``where``: its path in the request, for errors.

    Raises:
        InvalidField: the first field that is wrong, by its path.
    """
    spread = _spread(value)
    try:
        return _ANY.validate_python(spread)
    except ValidationError as invalid:
        error = invalid.errors()[0]
        path = ".".join([where, *_path(error, spread)])
        raise InvalidField(f"{path}: {_said(error)}", param=path) from None


def _spread(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a multi with its graders by name: OpenAI's guide writes a map, its client's type a single grader."""
    graders = value.get("graders")
    if not isinstance(graders, dict) or not isinstance(graders.get("type"), str):
        return value
    name = graders.get("name")
    return {**value, "graders": {name if isinstance(name, str) and name else graders["type"]: graders}}


def _path(error: ErrorDetails, value: Any) -> Sequence[str]:
    """Return where ``error`` stands in ``value``: pydantic's place, without the kinds that it puts between."""
    path: list[str] = []
    kind = _inside(value, "type")
    for part in error["loc"]:
        if not isinstance(value, dict | list):
            break  # text that was read as a block of content
        if isinstance(value, dict) and isinstance(part, int):
            continue  # the place of a block that stands alone
        if isinstance(value, dict) and part == kind:
            kind = None  # a key may have the same name
            continue
        if part != "[key]":
            path.append(str(part))
        value = _inside(value, part)
        kind = _inside(value, "type")
    return [*path, "type"] if error["type"] in _TAG_ERRORS else path


def _inside(value: Any, part: int | str) -> Any:
    """Return what stands at ``part``; None where it is missing."""
    try:
        return value[part]
    except (LookupError, TypeError):
        return None


def _said(error: ErrorDetails) -> str:
    match error["type"]:
        case "union_tag_not_found":
            return "Field required"
        case "union_tag_invalid":
            context = error["ctx"]
            return f"Input should be one of {context['expected_tags']} (found {context['tag']!r:.100})"
        case kind if kind in _SAYS_ALL:
            return error["msg"]
    return f"{error['msg']} (found {error['input']!r:.100})"
