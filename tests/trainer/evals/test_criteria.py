"""Testing criteria: which read the answer, and from which reward on an answer passes."""

from __future__ import annotations

from typing import Any

import pytest

from trainer.evals.criteria import reads_answer, threshold
from trainer.graders.parsing import parse

READS_ITEM = "def grade(sample, item):\n    return float(item['answer'] == item['reference'])"
READS_ANSWER = "def grade(sample, item):\n    return float(sample['output_text'] == item['reference'])"
EQUAL = {"type": "string_check", "operation": "eq", "reference": "a"}


@pytest.mark.parametrize(
    ("definition", "reads"),
    [
        ({**EQUAL, "input": "{{sample.output_text}}"}, True),
        ({**EQUAL, "input": "{{item.answer}}"}, False),
        ({"type": "json_schema", "schema": {}}, True),
        ({"type": "reward_model", "model": "judge"}, True),
        ({"type": "python", "source": READS_ANSWER}, True),
        ({"type": "python", "source": READS_ITEM}, False),
        (
            {
                "type": "multi",
                "graders": {
                    "a": {**EQUAL, "input": "{{item.answer}}"},
                    "b": {"type": "python", "source": READS_ANSWER},
                },
                "calculate_output": "a + b",
            },
            True,
        ),
    ],
)
def test_a_grader_reads_the_answer_by_a_template_or_by_itself(definition: dict[str, Any], reads: bool) -> None:
    assert reads_answer(parse(definition, "grader")) is reads


@pytest.mark.parametrize(
    ("definition", "least"),
    [
        ({**EQUAL, "input": "{{item.answer}}"}, 0.5),
        ({**EQUAL, "input": "{{item.answer}}", "pass_threshold": 0.9}, 0.9),
        ({"type": "reward_model", "model": "judge"}, 0.0),
    ],
)
def test_without_a_threshold_the_middle_of_the_range_passes_and_even_odds_of_a_reward_model(
    definition: dict[str, Any], least: float
) -> None:
    assert threshold(parse(definition, "grader")) == least
