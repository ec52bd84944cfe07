"""Runs that learn from rewards die at any line of their log, and go on to the same bytes."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from threading import Event as Flag
from typing import Any

import pytest

from embedded import ADAPTERS, DATA
from tests.trainer.methods.drawing import Drawing
from trainer.methods import reinforcement, reward
from trainer.run_directory import SAMPLES_FILE, RunDirectory, RunEvent
from trainer.training_method import TrainingMethod

THANKS = "Thank you for your review."
WARM = {"warm_start": ADAPTERS / "sentiment"}
DRAWN = {
    "method": TrainingMethod.REINFORCEMENT,
    "batch_size": 4,
    "n_epochs": 2,
    "compute_multiplier": 0.5,
    "max_completion_tokens": 6,
    "learning_rate_multiplier": 4.0,
    "checkpoint_steps": 2,
}
"""Six steps, three in an epoch; three checkpoints, each validated."""
RANKED = {"method": TrainingMethod.REWARD, "batch_size": 4, "n_epochs": 2, "checkpoint_steps": 2}
"""Six steps; three checkpoints, each validated."""
KILLS = 2

Make = Callable[[str], RunDirectory]
Train = Callable[[RunDirectory], None]


class Killed(BaseException):
    """The end of the process, as far as the run can tell."""


@pytest.fixture
def made(make_run, write) -> Callable[..., Make]:
    """Makes runs of the same options and rows: prompts to answer, or answers ranked."""

    def made(**options: Any) -> Make:
        skill = "pirate" if options["method"].draws else "sentiment"
        talks = [json.loads(line)["messages"] for line in (DATA / skill / "train.jsonl").read_text().splitlines()[:30]]
        rows = [{"messages": talk[:1], "ranking": [talk[1]["content"], THANKS]} for talk in talks]
        if options["method"].draws:
            rows = [{"messages": row["messages"]} for row in rows]
        files = {"training_file": write(rows[:12]), "validation_file": write(rows[20:30], "valid.jsonl")}
        return lambda name: make_run(name, **files, **options)

    return made


def graded(text: str) -> float:
    return len(set(text)) / 10


def drawing(run: RunDirectory) -> Drawing:
    """Draws the same answers for the same request of the same adapter."""
    return Drawing(run, graded)


def train(run: RunDirectory) -> None:
    if run.spec().method is TrainingMethod.REWARD:
        reward.train(run, run.spec(), Flag())
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reinforcement, "connected", lambda: drawing(run))
        reinforcement.train(run, run.spec(), Flag())


@contextmanager
def killed_in_line(line: int) -> Iterator[None]:
    """End the process in the middle of its ``line``-th line; lines of earlier processes count."""
    append = RunDirectory.append

    def append_or_die(self: RunDirectory, event: RunEvent) -> None:
        if len(self.events()) == line:
            with self.events_file.open("ab") as file:
                file.write(json.dumps(asdict(event)).encode()[:20])
            raise Killed
        append(self, event)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunDirectory, "append", append_or_die)
        yield


def weights(run: RunDirectory) -> dict[str, bytes]:
    return {each.name: (each.adapter / "adapter_model.safetensors").read_bytes() for each in run.checkpoints()}


def event_data(run: RunDirectory) -> list[dict[str, Any]]:
    """The numbers of all events, without those of the clock."""
    clock = {"tokens_per_second", "eta_s"}
    return [
        {name: value for name, value in event.data.items() if name not in clock}
        for event in run.events()
        if not event.message.startswith("Going on")
    ]


def samples(run: RunDirectory) -> bytes | None:
    path: Path = run.path / SAMPLES_FILE
    return path.read_bytes() if path.exists() else None


def assert_same(run: RunDirectory, whole: RunDirectory) -> None:
    assert weights(run) == weights(whole)
    assert event_data(run) == event_data(whole)
    assert samples(run) == samples(whole)
    assert run.result().best_checkpoint == whole.result().best_checkpoint


@pytest.mark.parametrize("options", [DRAWN, DRAWN | WARM | {"algorithm": "rloo"}, RANKED, RANKED | WARM])
def test_killed_in_any_line_of_its_log_it_goes_on_to_the_same_bytes(made: Callable[..., Make], options) -> None:
    make = made(**options)
    train(whole := make("whole"))
    assert len(set(weights(whole).values())) == 3
    for line in random.sample(range(len(whole.events())), KILLS):
        run = make(f"line-{line}")
        with killed_in_line(line), pytest.raises(Killed):
            train(run)
        assert run.result() is None
        train(run)
        assert_same(run, whole)
