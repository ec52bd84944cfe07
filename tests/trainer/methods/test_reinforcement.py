"""The policy learns from the rewards of its own answers, which another process draws with the adapter of each step."""

from __future__ import annotations

import json
from collections.abc import Callable
from threading import Event as Flag
from typing import Any

import pytest

from embedded import DATA
from tests.trainer.methods.drawing import Drawing, Grade
from trainer.endings import SamplingRefused
from trainer.methods import reinforcement
from trainer.run_directory import SAMPLES_FILE, RunDirectory
from trainer.training_method import TrainingMethod

NUMBERS = {"batch_size": 8, "n_epochs": 1, "max_completion_tokens": 16, "learning_rate_multiplier": 10.0}


@pytest.fixture
def questions() -> list[dict[str, Any]]:
    """Rows that ask for a fact: the base answers in a sentence, now and then in a word."""
    rows = [json.loads(line) for line in (DATA / "pirate" / "train.jsonl").read_text().splitlines()]
    return [{"messages": row["messages"][:1], "kind": "fact"} for row in rows]


def is_short(text: str) -> float:
    return float(len(text.split()) <= 2)


@pytest.fixture
def train(make_run, write, questions, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[RunDirectory, Drawing]]:
    """Train a policy on some questions, with answers that are graded by a function."""

    def train(grade: Grade, rows: int, **fields: Any) -> tuple[RunDirectory, Drawing]:
        fields = NUMBERS | fields
        run = make_run(method=TrainingMethod.REINFORCEMENT, training_file=write(questions[:rows]), **fields)
        drawing = Drawing(run, grade)
        monkeypatch.setattr(reinforcement, "connected", lambda: drawing)
        reinforcement.train(run, run.spec(), Flag())
        return run, drawing

    return train


def steps(run: RunDirectory, metric: str) -> list[float]:
    return [event.data[metric] for event in run.events() if metric in event.data and event.type == "metrics"]


def test_the_reward_rises(train) -> None:
    run, drawing = train(is_short, 96)
    rewards = steps(run, "train_mean_reward")
    assert len(rewards) == len(drawing.requests) == 12
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.2
    assert all(request.samples == 8 and len(request.prompts) == 8 for request in drawing.requests)
    assert all(prompt.item["kind"] == "fact" for request in drawing.requests for prompt in request.prompts)


def test_rloo_trains_too(train) -> None:
    run, _ = train(is_short, 16, algorithm="rloo")
    assert len(steps(run, "train_mean_reward")) == 2


def test_the_answers_are_of_the_adapter_in_training(train) -> None:
    run, _ = train(is_short, 24)
    assert max(steps(run, "sampling_difference")) < 0.05  # of log-probabilities; bfloat16 rounds the exported adapter
    shown = [json.loads(line) for line in (run.path / SAMPLES_FILE).read_text().splitlines()]
    assert [sample["step"] for sample in shown] == [0, 0, 1, 1, 2, 2]
    assert all(len(sample["answers"]) == 8 for sample in shown)


def test_a_grader_without_a_score_for_any_answer_ends_the_run(train) -> None:
    with pytest.raises(SamplingRefused, match="no answer of step 0 has a score: no score"):
        train(lambda _: None, 16)


def test_answers_without_a_score_are_left_out(train) -> None:
    run, _ = train(lambda text: is_short(text) if len(text) % 3 else None, 16)
    assert all(0 < share < 1 for share in steps(run, "graded_share"))


def test_the_best_checkpoint_is_the_one_with_the_largest_validation_reward(train, write, questions) -> None:
    held_out = write(questions[200:208], "valid.jsonl")
    run, _ = train(is_short, 24, validation_file=held_out, checkpoint_steps=1)
    rewards = {each.name: each.marker.metrics["full_valid_mean_reward"] for each in run.checkpoints()}
    result = run.result()
    assert result is not None
    assert rewards[result.best_checkpoint] == max(rewards.values())
