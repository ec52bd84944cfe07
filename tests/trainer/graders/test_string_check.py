"""string_check: OpenAI's four operations."""

from __future__ import annotations

from typing import Any

import pytest


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
async def test_an_operation_holds_or_not(grade: Any, operation: str, answer: str, reference: str, reward: int) -> None:
    grader = {
        "type": "string_check",
        "name": "city",
        "input": "{{sample.output_text}}",
        "reference": "{{item.city}}",
        "operation": operation,
    }
    graded = await grade(grader, answer, city=reference)
    assert (graded.reward, graded.troubles, graded.usage) == (reward, {}, {})


@pytest.mark.parametrize(("answer", "passed"), [("Paris", True), ("Rome", False)])
async def test_a_threshold_says_whether_the_reward_passes(grade: Any, answer: str, passed: bool) -> None:
    check = {"type": "string_check", "input": "{{sample.output_text}}", "reference": "Paris", "operation": "eq"}
    assert (await grade({**check, "pass_threshold": 0.5}, answer)).scores == {"passed": passed}
