"""Templates: what is looked up, what is put in, and what is no template."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from trainer.graders.grader import GradingError, Sample, Ungraded
from trainer.graders.template import MAX_ALL_RENDERED, MAX_RENDERED, MAX_TEMPLATE, Template, render

ITEM = {
    "city": "Paris",
    "count": 3,
    "share": 1.0,
    "is_capital": True,
    "nothing": None,
    "rivers": ["Seine", {"name": "Marne"}],
    "odd key": {"zip-code": "75001"},
    "{{item.city}}": "braces",
    "said": "{{item.city}}",
}
ANSWER = json.dumps({"rows": [{"name": "Ana", "größe": 1.5}]}, ensure_ascii=False)


def rendered(template: str, answer: str = ANSWER, item: dict[str, Any] | None = None) -> str:
    checked = TypeAdapter(Template).validate_python(template)
    return render(checked, Sample(answer, ITEM if item is None else item))


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("", ""),
        ("no places", "no places"),
        ("{{item.city}}", "Paris"),
        ("{{ item.city }} is {{\titem.city\n}}.", "Paris is Paris."),
        ("{{item.count}} {{item.share}} {{item.is_capital}} {{item.nothing}}", "3 1.0 true null"),
        ("{{item.rivers}}", '["Seine", {"name": "Marne"}]'),
        ("{{item.rivers[0]}} and {{item.rivers[1].name}}", "Seine and Marne"),
        ("""{{item["odd key"].zip-code}} {{item['odd key']["zip-code"]}}""", "75001 75001"),
        ("{{sample.output_text}}", ANSWER),
        ("{{sample.output_json.rows[0].name}}", "Ana"),
        ("{{sample.output_json.rows[0].größe}}", "1.5"),
        ("{{sample.output_json}}", ANSWER),
        ('{"a": {"b": "{{item.city}}"}}', '{"a": {"b": "Paris"}}'),
        ("{ {item.city} } and }}", "{ {item.city} } and }}"),
        ("{{{item.count}}}", "{3}"),
    ],
)
def test_a_place_is_filled_with_what_it_names(template: str, text: str):
    assert rendered(template) == text


def test_what_is_put_in_is_not_read_again():
    assert rendered("{{item.said}} {{sample.output_text}}", "{{item.city}}") == "{{item.city}} {{item.city}}"


@pytest.mark.parametrize(
    "path",
    [
        "item.town",
        "item.city.length",
        "item.city.__class__",
        "item.city[0]",
        "item.rivers.name",
        "item.rivers[2]",
        "item.rivers.0",
        "item.count.real",
        "item.__len__",
        'item["0"]',
        "sample.item",
        "sample.output_tools[0].function.name",
        "sample.output_json.columns",
        "sample.output_text.upper",
    ],
)
def test_what_is_not_there_is_a_wrong_variable(path: str):
    with pytest.raises(Ungraded) as refused:
        rendered(f"a {{{{ {path} }}}}")
    assert (refused.value.error, path in str(refused.value)) == (GradingError.VARIABLE, True)


@pytest.mark.parametrize("answer", ["", "no JSON", "{'a': 1}", '{"a": 1} and more', '{"a": NaN}', "[" * 5000])
def test_json_is_asked_of_an_answer_that_is_none(answer: str):
    with pytest.raises(Ungraded) as refused:
        rendered("{{sample.output_json.a}}", answer)
    assert refused.value.error is GradingError.SAMPLE


@pytest.mark.parametrize(
    "template",
    [
        "{{}}",
        "{{item}}",
        "{{sample}}",
        "{{item.}}",
        "{{item.a b}}",
        "{{item[a]}}",
        "{{item[-1]}}",
        "{{item.a | upper}}",
        "{{items.a}}",
        "{{env.HOME}}",
        "{{item.a()}}",
        "{{1 + 1}}",
        "{{item.a",
        "{{item.{x}}}",
        "x" * (MAX_TEMPLATE + 1),
    ],
)
def test_what_is_no_template_is_refused_when_it_is_read(template: str):
    with pytest.raises(ValidationError):
        rendered(template)


def test_a_text_that_grows_too_long_is_no_text():
    with pytest.raises(Ungraded) as refused:
        rendered("{{sample.output_text}}" * 3, "x" * (MAX_RENDERED // 2))
    assert (refused.value.error, f"{MAX_RENDERED:,}" in str(refused.value)) == (GradingError.OTHER, True)


def test_all_templates_of_a_grader_together_are_bounded():
    sample = Sample("x" * MAX_RENDERED)
    for _ in range(MAX_ALL_RENDERED // MAX_RENDERED):
        render("{{sample.output_text}}", sample)
    with pytest.raises(Ungraded, match=f"{MAX_ALL_RENDERED:,}"):
        render("{{sample.output_text}}", sample)


@pytest.mark.parametrize("text", ["{{" * 49_000, "{" * 99_000, "{{item" * 16_000, "{{item.a" + "[0]" * 30_000])
def test_a_hostile_template_is_read_at_once(text: str):
    with pytest.raises(ValidationError):
        rendered(text)
