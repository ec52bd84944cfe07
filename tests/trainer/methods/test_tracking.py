"""Metrics go to wandb too, where a job wants that; a wandb that does not answer is reported and delays nothing."""

import os
import struct

import pytest
from wandb.proto.wandb_internal_pb2 import Record

from tests.trainer.methods.children import start
from trainer.run_directory import Exit, RunDirectory

SHORT = {"batch_size": 4, "n_epochs": 1, "checkpoint_steps": 2}
"""Four steps."""


@pytest.fixture
def train(make_run, write, reviews):
    """Train a short run that wandb is to follow, with wandb's own settings in the environment."""

    def train(**environment: str) -> RunDirectory:
        rows = write(reviews[:16])
        run = make_run("ftjob-1", training_file=rows, validation_file=rows, **SHORT)
        run.write_integrations([{"type": "wandb", "wandb": {"project": "moods", "name": "first", "tags": ["a"]}}])
        own = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
        with start(run, env=own | environment) as process:
            assert process.wait() == Exit.FINISHED
        return run

    return train


def records(run: RunDirectory) -> list[Record]:
    """What wandb wrote down: LevelDB's log format, of which so short a run fills less than one block."""
    (kept,) = run.scratch.glob("tracking/**/*.wandb")
    log, found, place = kept.read_bytes(), [], 7
    while place < len(log):
        _, length, kind = struct.unpack_from("<IHB", log, place)
        assert kind == 1, "a whole record"
        place += 7
        found.append(Record.FromString(log[place : place + length]))
        place += length
    return found


def test_wandb_gets_every_metric_by_our_names_and_no_word_of_the_machine(train) -> None:
    run = train(WANDB_MODE="offline")
    kept = records(run)
    (started,) = (record.run for record in kept if record.HasField("run"))
    assert (started.project, started.display_name, started.run_id, list(started.tags)) == (
        "moods",
        "first",
        "ftjob-1",
        ["a"],
    )
    sent = [
        {item.nested_key[0] if item.nested_key else item.key: item.value_json for item in record.history.item}
        for record in kept
        if record.HasField("history")
    ]
    metrics = [event.data for event in run.events() if event.type == "metrics"]
    assert [int(row["_step"]) for row in sent] == sorted({data["step"] for data in metrics}) == [1, 2, 3, 4]
    for data in metrics:
        row = sent[data["step"] - 1]
        assert {name: float(row[name]) for name in data if name != "step"} == pytest.approx(
            {name: value for name, value in data.items() if name != "step"}
        )
    assert "full_valid_loss" in sent[-1]
    assert [event.level for event in run.events() if event.data.get("tracked") == "wandb"] == ["info"]
    assert started.host == "patchbay"
    assert not any(record.HasField("stats") or record.HasField("output") for record in kept)
    (files,) = run.scratch.glob("tracking/**/files")
    assert list(files.iterdir()) == []


def test_a_wandb_that_nobody_hears_from_holds_nothing_up(train) -> None:
    run = train(WANDB_BASE_URL="http://127.0.0.1:9", WANDB_API_KEY="a" * 40)
    assert run.result().steps == 4
    (warned,) = (event for event in run.events() if event.level == "warn")
    assert "wandb" in warned.message
