"""A run that dies at any step resumes to the same bytes, and no event is lost or repeated."""

import json
import random
import subprocess
from pathlib import Path
from threading import Event as Flag

import pytest

from embedded import BASE
from tests.trainer.methods.children import start, watch
from trainer.endings import Stopped
from trainer.methods import supervised
from trainer.run_directory import METRICS_FILE, RunDirectory
from trainer.run_spec import RunSpec

SHORT = {"batch_size": 4, "n_epochs": 2, "checkpoint_steps": 5}
"""24 steps, and five checkpoints."""


@pytest.fixture(scope="module")
def rows(reviews, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in reviews[:48]))
    return path


@pytest.fixture(scope="module")
def whole(rows: Path, tmp_path_factory) -> RunDirectory:
    """The run that nothing happened to; a test that changes it puts it right again."""
    run = RunDirectory(tmp_path_factory.mktemp("whole"))
    run.write_spec(RunSpec(base=BASE, training_file=rows, threads=1, rank=8, **SHORT))
    supervised.train(run, run.spec(), Flag())
    return run


def steps(run: RunDirectory) -> list[int]:
    return [event.data["step"] for event in run.events() if "train_loss" in event.data]


def weights(run: RunDirectory) -> dict[str, bytes]:
    return {made.name: (made.adapter / "adapter_model.safetensors").read_bytes() for made in run.checkpoints()}


def test_killed_at_a_random_step_it_goes_on_to_the_same_bytes(make_run, rows: Path, whole: RunDirectory) -> None:
    run = make_run("killed", training_file=rows, **SHORT)
    fatal = random.randint(1, 22)
    process = start(run, stderr=subprocess.PIPE)
    watch(process, lambda: len(steps(run)) >= fatal)
    process.kill()
    assert process.wait() == -9, process.stderr.read()
    assert run.result() is None
    process = start(run, stderr=subprocess.PIPE)
    _, trouble = process.communicate()
    assert process.returncode == 0, trouble
    assert weights(run) == weights(whole)
    assert steps(run) == steps(whole) == list(range(1, 25))
    assert len((run.path / METRICS_FILE).read_text().splitlines()) == 25
    assert run.result().curves["train_loss"] == whole.result().curves["train_loss"]


def test_asked_to_stop_it_leaves_a_checkpoint_and_goes_on_to_the_same_bytes(
    make_run, rows: Path, whole: RunDirectory
) -> None:
    run = make_run("stopped", training_file=rows, **SHORT)
    stop = Flag()
    stop.set()
    with pytest.raises(Stopped):
        supervised.train(run, run.spec(), stop)
    assert [(made.step, made.state.exists()) for made in run.checkpoints()] == [(1, True)]
    supervised.train(run, run.spec(), Flag())
    assert weights(run)["step-24"] == weights(whole)["step-24"]
    assert steps(run) == list(range(1, 25))
    assert run.result().last_checkpoint == "step-24"


def test_a_finished_run_started_again_only_writes_its_result(whole: RunDirectory) -> None:
    before = whole.events()
    result = whole.result()
    (whole.path / "result.json").unlink()
    supervised.train(whole, whole.spec(), Flag())
    again = whole.result()
    assert whole.events() == before
    assert (again.best_checkpoint, again.steps, again.metrics) == (result.best_checkpoint, result.steps, result.metrics)


def test_half_a_line_and_half_a_checkpoint_are_nothing(whole: RunDirectory) -> None:
    events, made = whole.events(), whole.checkpoints()
    with whole.events_file.open("ab") as file:
        file.write(b'{"type": "metr')
    (whole.checkpoints_folder / ".step-99" / "adapter").mkdir(parents=True)
    assert whole.events() == events
    assert whole.checkpoints() == made
    whole.mend_events()
    assert whole.events_file.read_bytes().endswith(b"}\n")
