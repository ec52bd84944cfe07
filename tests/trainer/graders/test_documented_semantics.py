"""OpenAI's documentation of each grader as a table: what it says, and what is assumed where it says nothing.

https://platform.openai.com/docs/guides/graders and the reference of the API.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.trainer.graders.conftest import FakeModels, Grading
from trainer.graders.grader import GradingError

ANSWER, REFERENCE = "{{sample.output_text}}", "{{item.reference}}"


def check(operation: str) -> dict[str, Any]:
    return {"type": "string_check", "name": "g", "input": ANSWER, "reference": REFERENCE, "operation": operation}


def similar(metric: str) -> dict[str, Any]:
    text = {"type": "text_similarity", "name": "g", "input": ANSWER, "reference": REFERENCE}
    return {**text, "evaluation_metric": metric}


def multi(formula: str) -> dict[str, Any]:
    return {
        "type": "multi",
        "name": "g",
        "graders": {"a": check("eq"), "b": similar("fuzzy_match")},
        "calculate_output": formula,
    }


DOCUMENTED = [
    # string_check returns 0 or 1
    (check("eq"), "Paris", "Paris", 1),
    (check("eq"), "paris", "Paris", 0),
    (check("ne"), "paris", "Paris", 1),
    (check("ne"), "Paris", "Paris", 0),
    (check("like"), "It is Paris.", "Paris", 1),
    (check("like"), "It is paris.", "Paris", 0),
    (check("ilike"), "It is PARIS.", "paris", 1),
    (check("ilike"), "Rome", "paris", 0),
    # text_similarity returns 0 to 1
    (similar("fuzzy_match"), "fuzzy", "fuzzy", 1),
    (similar("fuzzy_match"), "abcd", "wxyz", 0),
    (similar("bleu"), "the cat sat on the mat", "the cat sat on the mat", 1),
    (similar("gleu"), "a b c d", "a b c d", 1),
    (similar("gleu"), "a b c d", "w x y z", 0),
    (similar("meteor"), "w x", "a b", 0),
    (similar("rouge_1"), "a b", "b a", 1),
    (similar("rouge_2"), "a b", "b a", 0),
    (similar("rouge_3"), "a b c", "a b c", 1),
    (similar("rouge_4"), "a b c d", "a b c d", 1),
    (similar("rouge_5"), "a b c d e", "a b c d e", 1),
    (similar("rouge_l"), "a x b", "a b", 0.8),
    # multi: operators + - * / ^ and functions min max abs floor ceil exp sqrt log over the graders' rewards
    (multi("(a + b) / 2"), "Paris", "Paris", 1),
    (multi("0.3 * a - b"), "Paris", "Paris", -0.7),
    (multi("(a + 1) ^ 3"), "Paris", "Paris", 8),
    (multi("min(a, 0.2) + max(b, 0.5)"), "Paris", "Paris", 1.2),
    (multi("abs(0 - a) + floor(1.9) + ceil(0.1)"), "Paris", "Paris", 3),
    (multi("exp(a - 1) + sqrt(4 * b) + log(a)"), "Paris", "Paris", 3),
    # {{item.…}} and {{sample.…}} are filled in; nested variables by a path like JSON's
    ({**check("eq"), "reference": "{{ item.reference }}"}, "Paris", "Paris", 1),
    ({**check("eq"), "input": "{{sample.output_json.a[1].b}}"}, '{"a": [0, {"b": "Paris"}]}', "Paris", 1),
]

ASSUMED = [
    # like: the input contains the reference, not the other way round
    (check("like"), "Paris", "It is Paris.", 0),
    (check("like"), "anything", "", 1),
    # ilike folds case as Unicode does
    (check("ilike"), "STRASSE", "straße", 1),
    # no blanks are stripped, and no Unicode form is changed
    (check("eq"), "Paris ", "Paris", 0),
    # fuzzy_match is rapidfuzz's ratio, not its WRatio
    (similar("fuzzy_match"), "Paris", "It is Paris.", 10 / 17),
    # rouge is the F-measure over words in lower case, of any script
    (similar("rouge_1"), "The CAT", "the cat", 1),
    (similar("rouge_l"), "Η γάτα", "η γάτα", 1),
    # values that are no text are filled in as JSON
    ({**check("eq"), "input": "{{sample.output_json.n}}"}, '{"n": [1, true]}', "[1, true]", 1),
    # a grader without a score counts as 0 in multi
    ({**multi("a + 0.5"), "graders": {"a": {**check("eq"), "input": "{{item.none}}"}}}, "x", "x", 0.5),
]


@pytest.mark.parametrize(("grader", "answer", "reference", "reward"), [*DOCUMENTED, *ASSUMED])
async def test_a_grader_does_as_documented(
    grade: Grading, grader: dict[str, Any], answer: str, reference: str, reward: float
) -> None:
    assert (await grade(grader, answer, reference=reference)).reward == pytest.approx(reward)


SCORE = {"type": "score_model", "name": "g", "model": "judge", "input": [{"role": "user", "content": ANSWER}]}
LABEL = {**SCORE, "type": "label_model", "labels": ["good", "fair", "bad"], "passing_labels": ["good", "fair"]}


@pytest.mark.parametrize(
    ("grader", "result", "reward"),
    [
        (SCORE, 0.25, 0.25),  # range is [0, 1] unless stated
        ({**SCORE, "range": [1, 7]}, 5, 5),  # the reward is the score itself, not scaled to 0 to 1
        ({**SCORE, "range": [1, 7]}, 9, 7),  # and held to the range
        ({**SCORE, "range": [1, 7]}, 0, 1),
        (LABEL, "good", 1),
        (LABEL, "fair", 1),
        (LABEL, "bad", 0),
    ],
)
async def test_a_model_grades_as_documented(
    models: FakeModels, grade: Grading, grader: dict[str, Any], result: Any, reward: float
) -> None:
    models.says = json.dumps({"steps": [], "result": result})
    assert (await grade(grader, "x")).reward == reward


@pytest.mark.parametrize(
    ("grader", "result"), [(SCORE, "0.5"), (SCORE, True), (SCORE, None), (LABEL, "excellent"), (LABEL, 1)]
)
async def test_a_model_that_gives_no_result_is_a_parse_error(
    models: FakeModels, grade: Grading, grader: dict[str, Any], result: Any
) -> None:
    models.says = json.dumps({"steps": [], "result": result})
    graded = await grade(grader, "x")
    assert (graded.reward, [*graded.errors]) == (0, [GradingError.MODEL_PARSE])


@pytest.mark.usefixtures("python")
@pytest.mark.parametrize(
    ("body", "reward"),
    [
        ("return 0.5", 0.5),
        ("return 1", 1),
        ("return sample['output_text'] == item['reference']", 1),  # assumed: a bool is a number
        ("return -3.5", -3.5),  # assumed: any finite number, not only 0 to 1
        ("return 'sample' in globals()", 0),
        ("import re, json, math; return math.sqrt(4)", 2),
        ("return item['reference'] in sample['choices'][0]['message']['content']", 1),
    ],
)
async def test_code_grades_as_documented(grade: Grading, body: str, reward: float) -> None:
    source = f"def grade(sample, item) -> float:\n    {body}\n"
    graded = await grade({"type": "python", "name": "g", "source": source}, "Paris", reference="Paris")
    assert (graded.reward, graded.errors) == (reward, {})
