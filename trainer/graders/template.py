"""Templates in graders: ``{{item.question}}``, ``{{sample.output_json.rows[0]["name"]}}``.

A small, strict language: variables are looked up, never evaluated, and inserted text is not scanned again. Keys follow
a dot, or are written ``["…"]`` if they are not plain words; ``[0]`` indexes a list.
"""

import json
import re
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from trainer.graders.grader import GradingError, Sample, Ungraded

MAX_TEMPLATE: Final = 100_000
"""Characters in a template."""
MAX_RENDERED: Final = 1_000_000
"""Characters in a rendered text."""
MAX_ALL_RENDERED: Final = 4_000_000
"""Characters that all templates of a grader are filled with: 64 messages of 64 parts could ask for a gigabyte."""

_PLACE: Final = re.compile(r"\{\{([^{}]*)\}\}")
_STEP: Final = re.compile(r"""\.([\w-]+)|\[(\d{1,9})\]|\["([^"]*)"\]|\['([^']*)'\]""")
_PATH: Final = re.compile(rf"\s*(item|sample)((?:{_STEP.pattern})+)\s*")


def _checked(text: str) -> str:
    for place in _PLACE.finditer(text):
        if not _PATH.fullmatch(place[1]):
            context = {"place": place[0][:80]}
            raise PydanticCustomError("template", "{place} should be like {{item.key}} or {{sample.key}}", context)
    if "{{" in _PLACE.sub("", text):
        raise PydanticCustomError("template", "a '{{' should be closed by '}}' with no brace between")
    return text


Template = Annotated[str, Field(max_length=MAX_TEMPLATE), AfterValidator(_checked)]
"""Text with ``{{…}}`` placeholders, known to be well-formed."""


def render(template: str, sample: Sample) -> str:
    """Return ``template`` with its placeholders replaced: strings as they are, other values as JSON.

    Raises:
        Ungraded: a variable does not exist, or the text grows too long.
    """
    rendered: list[str] = []
    size = end = 0
    for place in _PLACE.finditer(template):
        rendered += [template[end : place.start()], _value(place[1], sample)]
        end = place.end()
        size += len(rendered[-1])
        sample.filled.count += len(rendered[-1])
        if size > MAX_RENDERED:
            raise Ungraded(GradingError.OTHER, f"a rendered template is longer than {MAX_RENDERED:,} characters")
        if sample.filled.count > MAX_ALL_RENDERED:
            raise Ungraded(
                GradingError.OTHER, f"the grader's templates are filled with over {MAX_ALL_RENDERED:,} characters"
            )
    return "".join([*rendered, template[end:]])


def variables(template: str) -> list[tuple[str, str]]:
    """Return the variables of ``template``, each as ``item`` or ``sample`` and its first key."""
    paths = (_PATH.fullmatch(place[1]) for place in _PLACE.finditer(template))
    return [(path[1], next(filter(None, _STEP.findall(path[2])[0]))) for path in paths if path is not None]


def _value(path: str, sample: Sample) -> str:
    value = look_up(path, sample)
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError:
        raise Ungraded(GradingError.VARIABLE, f"{path.strip()[:200]} is nested too deeply for JSON") from None


def is_path(text: str) -> bool:
    """Whether ``text`` is a path that ``look_up`` takes: ``item.messages``."""
    return _PATH.fullmatch(text) is not None


def look_up(path: str, sample: Sample) -> Any:
    """Return the value at ``path``, which ``is_path``.

    Raises:
        Ungraded: there is none.
    """
    found = _PATH.fullmatch(path)
    assert found is not None, "templates are checked when they are parsed"
    steps = [(key or quoted or also_quoted, index) for key, index, quoted, also_quoted in _STEP.findall(found[2])]
    value: Any = sample.item if found[1] == "item" else _answer(sample, reads_json=steps[0][0] == "output_json")
    for key, index in steps:
        if isinstance(value, dict) and not index and key in value:
            value = value[key]
        elif isinstance(value, list) and index and int(index) < len(value):
            value = value[int(index)]
        else:
            raise Ungraded(GradingError.VARIABLE, f"there is no {path.strip()[:200]}")
    return value


def _answer(sample: Sample, *, reads_json: bool) -> dict[str, Any]:
    if not reads_json:
        return {"output_text": sample.output_text}
    try:
        return {"output_json": sample.output_json}
    except ValueError as malformed:
        raise Ungraded(GradingError.SAMPLE, f"sample.output_json: the answer is not JSON ({malformed})") from None
