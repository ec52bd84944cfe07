"""Reads a grader from its JSON definition, and names the first invalid field."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from trainer.errors import InvalidField
from trainer.graders.grader import Grader
from trainer.graders.multi import MultiGrader, Single

_ANY: Final[TypeAdapter[Grader]] = TypeAdapter(Annotated[Single | MultiGrader, Field(discriminator="type")])

_TAG_ERRORS: Final = frozenset({"union_tag_invalid", "union_tag_not_found"})
_SAYS_ALL: Final = frozenset({"missing", "formula", "labels", "range", "schema", "source", "template"})
"""Errors whose message does not gain from the value that was found."""


def parse(value: Mapping[str, Any], where: str) -> Grader:
    """Return the grader that ``value`` defines. ``where``: its path in the request, for errors.

    Raises:
        InvalidField: the path of the first invalid field and the reason.
    """
    definition = _with_names(value)
    try:
        return _ANY.validate_python(definition)
    except ValidationError as invalid:
        raise invalid_field(invalid, definition, where) from None


def invalid_field(invalid: ValidationError, value: Any, where: str) -> InvalidField:
    """Return the first error of ``value``, which stands at ``where`` in the request."""
    error = invalid.errors()[0]
    path = ".".join([where, *_path(error, value)])
    return InvalidField(f"{path}: {_message(error)}", param=path)


def _with_names(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a multi with a map of graders by name: OpenAI's client has the type of a single grader there."""
    graders = value.get("graders")
    if not isinstance(graders, dict) or not isinstance(graders.get("type"), str):
        return value
    name = graders.get("name")
    return {**value, "graders": {name if isinstance(name, str) and name else graders["type"]: graders}}


def _path(error: ErrorDetails, value: Any) -> Sequence[str]:
    """Return the path of ``error`` in ``value``: pydantic's location without the union tags that it inserts."""
    path: list[str] = []
    kind = _inside(value, "type")
    for part in error["loc"]:
        if not isinstance(value, dict | list):
            break  # a text that was read as a content block
        if isinstance(value, dict) and isinstance(part, int):
            continue  # the index of a single block, which was made a list
        if isinstance(value, dict) and part == kind:
            kind = None  # only once: a key may have the same name
            continue
        if part != "[key]":
            path.append(str(part))
        value = _inside(value, part)
        kind = _inside(value, "type")
    return [*path, "type"] if error["type"] in _TAG_ERRORS else path


def _inside(value: Any, part: int | str) -> Any:
    """Return the element ``part`` of ``value``, None if it is missing."""
    try:
        return value[part]
    except (LookupError, TypeError):
        return None


def _message(error: ErrorDetails) -> str:
    match error["type"]:
        case "union_tag_not_found":
            return "Field required"
        case "union_tag_invalid":
            context = error["ctx"]
            return f"Input should be one of {context['expected_tags']} (found {context['tag']!r:.100})"
        case kind if kind in _SAYS_ALL:
            return error["msg"]
    return f"{error['msg']} (found {error['input']!r:.100})"
