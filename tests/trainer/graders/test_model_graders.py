"""score_model and label_model: what is asked, and what becomes of the answer."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.trainer.graders.conftest import FakeModels, Grading
from trainer.errors import InvalidField
from trainer.graders.grader import GradingError
from trainer.graders.models import Usage

SCORE: dict[str, Any] = {
    "type": "score_model",
    "name": "judge",
    "model": "judge",
    "input": [
        {"role": "developer", "content": "You are an expert grader."},
        {"type": "message", "role": "user", "content": "Right: {{item.answer}}. Said: {{sample.output_text}}"},
    ],
}
LABEL = {**SCORE, "type": "label_model", "labels": ["good", "fair", "bad"], "passing_labels": ["good", "fair"]}


def says(result: Any) -> str:
    return json.dumps({"steps": [{"description": "compared", "conclusion": "alike"}], "result": result})


async def test_a_model_is_asked_for_steps_and_a_number_in_the_range(grade: Grading, models: FakeModels):
    models.says = says(0.75)
    sampling = {"temperature": 0, "top_p": 0.9, "seed": 7, "max_completions_tokens": 99, "reasoning_effort": "low"}
    graded = await grade({**SCORE, "range": [-1, 2], "sampling_params": sampling}, "4", answer=5)
    assert (graded.reward, graded.scores) == (0.75, {"result": 0.75})
    assert graded.usage == {"judge@3": Usage(20, 5, 16)}
    (asked,) = models.asked
    assert asked.model == "judge"
    assert asked.messages == [
        {"role": "system", "content": "You are an expert grader."},
        {"role": "user", "content": "Right: 5. Said: 4"},
    ]
    assert asked.sampling == {
        "temperature": 0,
        "top_p": 0.9,
        "seed": 7,
        "max_completion_tokens": 99,
        "reasoning_effort": "low",
    }


async def test_an_answer_is_bounded_by_default(grade: Grading, models: FakeModels):
    models.says = says(1)
    await grade(SCORE, "4", answer=5)
    assert models.asked[0].sampling == {"max_completion_tokens": 2048}
    step = {"description": "ä" * 200, "conclusion": 'a\\\n"b"'}
    for steps, fits in (([], True), ([step], True), ([step] * 4, True), ([step] * 5, False), ([{}], False)):
        answer = json.dumps({"steps": steps, "result": 1}, ensure_ascii=False)
        assert bool(re.fullmatch(models.asked[0].pattern, answer)) is fits


@pytest.mark.parametrize(
    ("grader", "fitting", "unfitting"),
    [
        (SCORE, ["0", "1", "0.5", "0.123456"], ["-0.5", "01", "10", "0.1234567", "1.", '"1"', " 1", "true", "1e3"]),
        ({**SCORE, "range": [-1.5, 10]}, ["-1", "10", "9.75", "-99"], ["100", "--1", "+1"]),
        (LABEL, ['"good"', '"bad"'], ['"great"', "good", '"good" ', '""']),
        (
            {**LABEL, "labels": ['a "b"', "(ü|.) \\"], "passing_labels": ['a "b"']},
            ['"a \\"b\\""', '"(ü|.) \\\\"'],
            ['"ü"'],
        ),
    ],
)
async def test_the_pattern_admits_results_only(
    grade: Grading, models: FakeModels, grader: Any, fitting: list[str], unfitting: list[str]
):
    await grade(grader, "4", answer=5)
    form = models.asked[0].pattern
    assert [result for result in fitting if not re.fullmatch(form, f'{{"steps": [], "result": {result}}}')] == []
    assert [result for result in unfitting if re.fullmatch(form, f'{{"steps": [], "result": {result}}}')] == []


@pytest.mark.parametrize(
    ("bounds", "result", "reward"),
    [(None, 0.4, 0.4), (None, 7, 1), (None, -7.5, 0), ([0, 10], 7, 7), ([-1, 0], 3, 0), ([0, 1], 10**400, 1)],
)
async def test_a_number_is_held_to_the_range(
    grade: Grading, models: FakeModels, bounds: Any, result: Any, reward: float
):
    models.says = says(result)
    graded = await grade(SCORE if bounds is None else {**SCORE, "range": bounds}, "4", answer=5)
    assert (graded.reward, graded.scores["result"], graded.errors) == (reward, result, {})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0.5",
        "one",
        '{"steps": []}',
        says("0.5"),
        says(None),
        says(True),
        says([1]),
        says(float("nan")),
        says(1)[:-1],
        "[" * 9999,
    ],
)
async def test_an_answer_without_a_number_has_no_reward_but_costs_tokens(grade: Grading, models: FakeModels, text: str):
    models.says = text
    graded = await grade(SCORE, "4", answer=5)
    assert (graded.reward, [*graded.errors]) == (0, [GradingError.MODEL_PARSE])
    assert graded.usage == {"judge@3": Usage(20, 5, 16)}


@pytest.mark.parametrize(("label", "reward"), [("good", 1), ("fair", 1), ("bad", 0)])
async def test_a_label_passes_or_not(grade: Grading, models: FakeModels, label: str, reward: int):
    models.says = says(label)
    graded = await grade(LABEL, "4", answer=5)
    assert (graded.reward, graded.scores) == (reward, {"label": label})


@pytest.mark.parametrize("text", [says("great"), says(1), says(["good"]), "good"])
async def test_an_answer_without_a_label_has_no_reward(grade: Grading, models: FakeModels, text: str):
    models.says = text
    graded = await grade(LABEL, "4", answer=5)
    assert (graded.reward, [*graded.errors]) == (0, [GradingError.MODEL_PARSE])


async def test_a_refusal_is_reported(grade: Grading, models: FakeModels):
    models.refusal = "I cannot judge that."
    graded = await grade(SCORE, "4", answer=5)
    assert (graded.reward, graded.errors) == (0, {GradingError.MODEL_REFUSAL: "I cannot judge that."})


async def test_a_failure_is_reported_in_the_servers_words(grade: Grading, models: FakeModels):
    models.failure = "the engine is rebuilding; try again shortly"
    graded = await grade(LABEL, "4", answer=5)
    assert (graded.reward, graded.errors, graded.usage) == (0, {GradingError.MODEL_SERVER: models.failure}, {})


async def test_a_wrong_variable_sends_no_request(grade: Grading, models: FakeModels):
    graded = await grade(SCORE, "4")
    assert (graded.reward, [*graded.errors], models.asked) == (0, [GradingError.VARIABLE], [])


async def test_a_model_that_is_not_there_is_refused_by_its_field(grade: Grading):
    with pytest.raises(InvalidField, match="gpt-4o") as refused:
        await grade({**SCORE, "model": "gpt-4o"}, "4", answer=5)
    assert refused.value.param == "grader.model"


@pytest.mark.parametrize(
    ("content", "rendered"),
    [
        ("{{item.a}}", "1"),
        (["{{item.a}}", "b"], "1\nb"),
        ({"type": "input_text", "text": "{{item.a}}"}, "1"),
        ([{"type": "output_text", "text": "{{sample.output_text}}"}, "b"], "4\nb"),
        (
            ["{{item.a}}", {"type": "input_image", "image_url": "https://x/{{item.a}}.png"}],
            [
                {"type": "text", "text": "1"},
                {"type": "image_url", "image_url": {"url": "https://x/1.png", "detail": "auto"}},
            ],
        ),
        (
            {"type": "input_audio", "input_audio": {"data": "{{item.a}}", "format": "mp3"}},
            [{"type": "input_audio", "input_audio": {"data": "1", "format": "mp3"}}],
        ),
    ],
)
async def test_content_is_text_a_block_or_several(grade: Grading, models: FakeModels, content: Any, rendered: Any):
    models.says = says(1)
    await grade({**SCORE, "input": [{"role": "user", "content": content}]}, "4", a=1)
    assert models.asked[0].messages == [{"role": "user", "content": rendered}]
