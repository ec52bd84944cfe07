"""``json_schema``: whether the answer is JSON that a schema admits; the schema may be hostile."""

from __future__ import annotations

from typing import Any

import pytest

from tests.trainer.graders.conftest import Grading
from trainer.errors import InvalidField
from trainer.graders.grader import GradingError

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}


def by(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "name": "shape", "schema": schema}


@pytest.mark.parametrize(
    ("schema", "answer", "reward", "reason"),
    [
        (CITY, '{"city": "Paris"}', 1, None),
        (CITY, '{"city": 75}', 0, "city: 75 is not of type 'string'"),
        (CITY, "{}", 0, "'city' is a required property"),
        (CITY, "Paris", 0, "not JSON"),
        (CITY, '{"city": "a", "city": "b"}', 0, "not JSON"),
        ({"$ref": "#/$defs/n", "$defs": {"n": {"minimum": 3}}}, "2", 0, "less than the minimum"),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"type": "null"}]}, "[null, 1]", 1, None),
        ({"format": "date"}, '"no date"', 1, None),
        ({}, "[1, 2]", 1, None),
    ],
)
async def test_an_answer_is_valid_or_not(
    grade: Grading, schema: dict[str, Any], answer: str, reward: float, reason: str | None
) -> None:
    graded = await grade(by(schema), answer)
    assert (graded.reward, graded.errors, graded.scores["valid"]) == (reward, {}, reward == 1)
    assert (reason or "") in graded.scores.get("reason", "")


@pytest.mark.parametrize("schema", [{"type": "text"}, {"minimum": "1"}, {"required": "city"}, {"properties": []}])
async def test_what_is_no_schema_is_refused(grade: Grading, schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidField, match="should be a JSON schema") as refused:
        await grade(by(schema))
    assert refused.value.param == "grader.schema"


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "http://169.254.169.254/schema.json"},
        {"$ref": "file:///etc/passwd"},
        {"$ref": "#/$defs/missing"},
        {"$ref": "#"},
    ],
)
async def test_a_reference_that_leaves_the_schema_or_does_not_end_is_an_error(
    grade: Grading, schema: dict[str, Any]
) -> None:
    graded = await grade(by(schema), "{}")
    assert (graded.reward, [*graded.errors]) == (0, [GradingError.OTHER])


async def test_a_pattern_that_does_not_end_is_an_error(grade: Grading) -> None:
    graded = await grade(by({"pattern": "^(a+)+$"}), '"' + "a" * 60 + 'b"')
    assert "2 seconds of a core" in graded.errors[GradingError.OTHER]
