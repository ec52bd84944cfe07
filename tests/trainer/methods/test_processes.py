"""Two processes train one run: to what one alone would make, and to the same bytes whatever happens to them."""

import json
import os
import signal
from pathlib import Path
from threading import Event as Flag

import pytest

from adapters.base_model import BaseModel
from adapters.checks.inspection import AdapterLimits, inspect_adapter
from embedded import BASE
from tests.trainer.methods.children import EVERY_S, start, watch
from trainer.methods import supervised
from trainer.methods.launch import SHARED
from trainer.run_directory import LOSS_PLOT, METRICS_FILE, Exit, RunDirectory
from trainer.run_spec import RunSpec

SHORT = {"batch_size": 4, "n_epochs": 2, "checkpoint_steps": 5, "threads": 1, "rank": 8}
"""24 steps, and five checkpoints."""


@pytest.fixture(scope="module")
def rows(reviews, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in reviews[:48]))
    return path


@pytest.fixture(scope="module")
def whole(rows: Path, tmp_path_factory) -> RunDirectory:
    """The run of two processes that nothing happened to."""
    run = RunDirectory(tmp_path_factory.mktemp("whole"))
    run.write_spec(RunSpec(base=BASE, training_file=rows, processes=2, **SHORT))
    with start(run) as process:
        assert process.wait() == Exit.FINISHED
    return run


def metrics(run: RunDirectory) -> list[dict]:
    return [event.data for event in run.events() if "train_loss" in event.data]


def weights(run: RunDirectory) -> dict[int, bytes]:
    return {made.step: (made.adapter / "adapter_model.safetensors").read_bytes() for made in run.checkpoints()}


def sharing(run: RunDirectory) -> list[str]:
    """The processes that share ``run`` and still do something."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:  # it ended meanwhile
            continue
        is_shared = os.fsencode(run.path) in arguments and SHARED.encode() in arguments
        if is_shared and b"accelerate.commands.launch" not in arguments:
            found.append(process.name)
    return found


def test_two_processes_make_what_one_makes(whole: RunDirectory, rows: Path, make_run) -> None:
    alone = make_run("alone", training_file=rows, **SHORT)
    supervised.train(alone, alone.spec(), Flag())
    losses, expected = ([data["train_loss"] for data in metrics(run)] for run in (whole, alone))
    assert losses == pytest.approx(expected, rel=1e-2)
    assert losses[-1] < losses[0] / 2
    assert whole.result().trained_tokens == alone.result().trained_tokens
    assert whole.result().hyperparameters == {**alone.result().hyperparameters, "micro_batch_size": 2}
    assert [data["step"] for data in metrics(whole)] == list(range(1, 25))
    assert weights(whole).keys() == weights(alone).keys()
    assert all((whole.path / name).exists() for name in (METRICS_FILE, LOSS_PLOT))
    base = BaseModel.from_directory(BASE, "base")
    for checkpoint in whole.checkpoints():
        assert inspect_adapter(checkpoint.adapter, base, AdapterLimits(max_rank=8, max_bytes=1 << 30)).report.rank == 8


def test_stopped_and_then_killed_they_go_on_to_the_same_bytes(whole: RunDirectory, rows: Path, make_run) -> None:
    run = make_run("disturbed", training_file=rows, processes=2, **SHORT)
    with start(run) as process:
        watch(process, lambda: len(metrics(run)) >= 7)
        process.terminate()
        assert process.wait() == Exit.STOPPED
    stopped = run.checkpoints()[-1]
    assert stopped.step == len(metrics(run)) < 24
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= {path.name for path in stopped.state.iterdir()}

    with start(run) as process:
        watch(process, lambda: len(metrics(run)) >= stopped.step + 2)
        assert len(sharing(run)) == 2
        process.send_signal(signal.SIGKILL)
    while sharing(run):
        Flag().wait(EVERY_S)
    assert run.result() is None

    with start(run) as process:
        assert process.wait() == Exit.FINISHED
    assert {step: made for step, made in weights(run).items() if step != stopped.step} == {
        step: made for step, made in weights(whole).items() if step != stopped.step
    }
    assert [data["train_loss"] for data in metrics(run)] == [data["train_loss"] for data in metrics(whole)]
    assert sharing(run) == []


def test_a_loss_or_gradient_that_is_no_number_ends_all_of_them(rows: Path, make_run) -> None:
    run = make_run("wild", training_file=rows, processes=2, alpha=1e30, **SHORT)
    with start(run) as process:
        assert process.wait() == Exit.NOT_FINITE
    assert [event.level for event in run.events()].count("error") == 1
    assert sharing(run) == []
    assert run.result() is None
