"""multi: rewards of several graders, by a formula."""

from __future__ import annotations

from typing import Any

import pytest

from tests.trainer.graders.conftest import FakeModels, Grading
from trainer.graders.grader import GradingError
from trainer.graders.models import Usage
from trainer.graders.multi import MAX_GRADERS
from trainer.graders.template import MAX_ALL_RENDERED

NAME = {
    "type": "text_similarity",
    "name": "name_grader",
    "input": "{{sample.output_json.name}}",
    "reference": "{{item.name}}",
    "evaluation_metric": "fuzzy_match",
}
EMAIL = {
    "type": "string_check",
    "input": "{{sample.output_json.email}}",
    "reference": "{{item.email}}",
    "operation": "eq",
}
JUDGE = {"type": "score_model", "model": "judge", "input": [{"role": "user", "content": "{{sample.output_text}}"}]}
ITEM = {"name": "John Doe", "email": "john.doe@gmail.com"}
ANSWER = '{"name": "John Do", "email": "john.doe@gmail.com"}'


def multi(formula: str, **graders: Any) -> dict[str, Any]:
    return {"type": "multi", "name": "both", "graders": graders, "calculate_output": formula}


async def test_the_example_of_openais_guide(grade: Grading):
    graded = await grade(multi("(name + email) / 2", name=NAME, email=EMAIL), ANSWER, **ITEM)
    assert graded.sub_rewards == {"name": pytest.approx(14 / 15), "email": 1}
    assert graded.reward == pytest.approx((14 / 15 + 1) / 2)
    assert graded.errors == {}


async def test_a_single_grader_goes_by_its_own_name(grade: Grading):
    single = {"type": "multi", "graders": NAME, "calculate_output": "name_grader ^ 2"}
    graded = await grade(single, ANSWER, **ITEM)
    assert (graded.reward, graded.sub_rewards) == (
        pytest.approx((14 / 15) ** 2),
        {"name_grader": pytest.approx(14 / 15)},
    )


async def test_a_grader_with_an_error_counts_as_zero_and_is_named(grade: Grading):
    graded = await grade(multi("1 + name + email", name=NAME, email=EMAIL), '{"email": "john.doe@gmail.com"}', **ITEM)
    assert (graded.reward, graded.sub_rewards) == (2, {"name": 0, "email": 1})
    assert graded.errors == {GradingError.VARIABLE: "name: there is no sample.output_json.name"}


async def test_a_formula_without_a_value_is_a_formula_error(grade: Grading):
    graded = await grade(multi("1 / (email - 1)", email=EMAIL), ANSWER, **ITEM)
    assert (graded.reward, graded.sub_rewards) == (0, {"email": 1})
    assert "1 / (email - 1)" in graded.errors[GradingError.FORMULA]


async def test_tokens_are_summed_by_model(grade: Grading, models: FakeModels):
    models.says = '{"steps": [], "result": 0.5}'
    graded = await grade(multi("a + b + email", a=JUDGE, b=JUDGE, email=EMAIL), ANSWER, **ITEM)
    assert graded.reward == 2
    assert graded.usage == {"judge@3": Usage(40, 10, 32)}
    assert graded.scores == {"a": {"result": 0.5}, "b": {"result": 0.5}}


async def test_all_templates_of_a_multi_share_one_bound(grade: Grading):
    copy = {"type": "string_check", "input": "{{item.text}}", "reference": "{{item.text}}", "operation": "eq"}
    graders = {f"g{number}": copy for number in range(MAX_GRADERS)}
    graded = await grade(multi(" + ".join(graders), **graders), text="x" * 900_000)
    assert graded.reward == MAX_ALL_RENDERED // (2 * 900_000)
    assert "4,000,000 characters" in graded.errors[GradingError.OTHER]
