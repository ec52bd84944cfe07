"""``reward_model``: a reward model scores the sample as the answer to the item's conversation."""

from __future__ import annotations

import math

import pytest

from tests.trainer.graders.conftest import FakeModels, Grading
from trainer.errors import InvalidField
from trainer.graders.grader import GradingError

GRADER = {"type": "reward_model", "name": "people", "model": "judge"}
ASKED = [{"role": "user", "content": "What is 2 + 3?"}]


async def test_the_reward_of_the_model_is_the_grade(grade: Grading, models: FakeModels) -> None:
    models.reward_is = -1.5
    graded = await grade(GRADER, "5", messages=ASKED)
    assert graded.reward == -1.5
    assert models.rewarded == [[*ASKED, {"role": "assistant", "content": "5"}]]
    assert graded.usage["judge@3"].prompt_tokens == 20


async def test_the_conversation_can_be_stated(grade: Grading, models: FakeModels) -> None:
    stated = [{"role": "user", "content": "Question: {{item.question}}"}]
    await grade({**GRADER, "input": stated}, "5", question="2 + 3?")
    assert models.rewarded == [[{"role": "user", "content": "Question: 2 + 3?"}, {"role": "assistant", "content": "5"}]]


async def test_an_item_without_messages_has_no_reward(grade: Grading) -> None:
    assert GradingError.VARIABLE in (await grade(GRADER, "5")).errors


@pytest.mark.parametrize("reward", [math.nan, math.inf])
async def test_a_reward_that_is_no_number_is_an_error(grade: Grading, models: FakeModels, reward: float) -> None:
    models.reward_is = reward
    assert GradingError.MODEL_SERVER in (await grade(GRADER, "5", messages=ASKED)).errors


async def test_a_model_that_does_not_answer_is_an_error(grade: Grading, models: FakeModels) -> None:
    models.failure = "judge@3 is no reward model"
    graded = await grade(GRADER, "5", messages=ASKED)
    assert graded.errors == {GradingError.MODEL_SERVER: "judge@3 is no reward model"}


async def test_an_unknown_model_is_a_fault_of_its_field(grade: Grading) -> None:
    with pytest.raises(InvalidField) as refused:
        await grade({**GRADER, "model": "none"}, "5", messages=ASKED)
    assert refused.value.param == "grader.model"


async def test_multi_combines_it(grade: Grading, models: FakeModels) -> None:
    models.reward_is = 2.0
    multi = {"type": "multi", "graders": {"people": GRADER}, "calculate_output": "1 / (1 + exp(-people))"}
    assert (await grade(multi, "5", messages=ASKED)).reward == pytest.approx(0.8808, abs=1e-4)
