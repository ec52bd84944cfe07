"""string_check: OpenAI's four operations."""

from __future__ import annotations

import pytest

from tests.trainer.graders.conftest import Grading


@pytest.mark.parametrize(
    ("operation", "answer", "reference", "reward"),
    [
        ("eq", "Paris", "Paris", 1),
        ("eq", "paris", "Paris", 0),
        ("eq", "Paris ", "Paris", 0),
        ("ne", "Paris", "Paris", 0),
        ("ne", "Rome", "Paris", 1),
        ("like", "It is Paris.", "Paris", 1),
        ("like", "It is paris.", "Paris", 0),
        ("like", "Paris", "It is Paris.", 0),
        ("like", "100% sure", "1__%", 0),
        ("like", "anything", "", 1),
        ("ilike", "It is PARIS.", "paris", 1),
        ("ilike", "Große Straße", "STRASSE", 1),
        ("ilike", "Rome", "paris", 0),
    ],
)
async def test_an_operation_holds_or_not(grade: Grading, operation: str, answer: str, reference: str, reward: int):
    grader = {
        "type": "string_check",
        "name": "city",
        "input": "{{sample.output_text}}",
        "reference": "{{item.city}}",
        "operation": operation,
    }
    graded = await grade(grader, answer, city=reference)
    assert (graded.reward, graded.errors, graded.usage) == (reward, {}, {})


@pytest.mark.parametrize(("answer", "passed"), [("Paris", True), ("Rome", False)])
async def test_a_threshold_adds_whether_the_reward_passes(grade: Grading, answer: str, passed: bool):
    check = {"type": "string_check", "input": "{{sample.output_text}}", "reference": "Paris", "operation": "eq"}
    assert (await grade({**check, "pass_threshold": 0.5}, answer)).scores == {"passed": passed}
