"""Templates in graders: ``{{item.question}}``, ``{{sample.output_json.rows[0]["name"]}}``.

A small language of our own, and strict: what callers send is looked up, never run, and what was put in is not read
again. Keys stand after a dot, or as ``["…"]`` where they are no plain words; ``[0]`` takes from a list.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from trainer.graders.grade import Trouble, Ungraded
from trainer.graders.sample import Sample

MAX_TEMPLATE: Final = 100_000
"""Characters of a template."""
MAX_RENDERED: Final = 1_000_000
"""Characters of a text with everything put in."""

_PLACE: Final = re.compile(r"\{\{([^{}]*)\}\}")
_STEP: Final = re.compile(r"""\.([\w-]+)|\[(\d{1,9})\]|\["([^"]*)"\]|\['([^']*)'\]""")
_PATH: Final = re.compile(rf"\s*(item|sample)((?:{_STEP.pattern})+)\s*")


def _checked(text: str) -> str:
    for place in _PLACE.finditer(text):
        if not _PATH.fullmatch(place[1]):
            said = {"said": place[0][:80]}
            raise PydanticCustomError("template", "{said} should be like {{item.key}} or {{sample.key}}", said)
    if "{{" in _PLACE.sub("", text):
        raise PydanticCustomError("template", "a '{{' should be closed by '}}' with no brace between")
    return text


Template = Annotated[str, Field(max_length=MAX_TEMPLATE), AfterValidator(_checked)]
"""Text with places to fill, known to be well formed."""


def render(template: str, sample: Sample) -> str:
    """Return ``template`` with its places filled: texts as they are, all else as JSON.

    Raises:
        Ungraded: a place names what is not there, or the text grows too long.
    """
    rendered: list[str] = []
    size = end = 0
    for place in _PLACE.finditer(template):
        rendered += [template[end : place.start()], _filled(place[1], sample)]
        end = place.end()
        size += len(rendered[-1])
        if size > MAX_RENDERED:
            raise Ungraded(Trouble.OTHER, f"filled in, a template is longer than {MAX_RENDERED:,} characters")
    return "".join([*rendered, template[end:]])


def _filled(path: str, sample: Sample) -> str:
    found = _PATH.fullmatch(path)
    assert found is not None, "templates are checked when they are read"
    steps = [(key or quoted or also_quoted, index) for key, index, quoted, also_quoted in _STEP.findall(found[2])]
    value: Any = sample.item if found[1] == "item" else _of_answer(sample, reads_json=steps[0][0] == "output_json")
    for key, index in steps:
        if isinstance(value, dict) and not index and key in value:
            value = value[key]
        elif isinstance(value, list) and index and int(index) < len(value):
            value = value[int(index)]
        else:
            raise Ungraded(Trouble.VARIABLE, f"there is no {path.strip()[:200]}")
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError:
        raise Ungraded(Trouble.VARIABLE, f"{path.strip()[:200]} is nested too deeply to be written out") from None


def _of_answer(sample: Sample, *, reads_json: bool) -> dict[str, Any]:
    if not reads_json:
        return {"output_text": sample.output_text}
    try:
        return {"output_json": sample.output_json}
    except ValueError as malformed:
        raise Ungraded(Trouble.SAMPLE, f"sample.output_json: the answer is not JSON ({malformed})") from None
