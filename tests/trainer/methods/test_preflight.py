"""The preflight tells what a run would meet, and refuses what would fail."""

import json
from threading import Event as Flag

from trainer.methods.__main__ import main
from trainer.run_directory import Exit


def checked(run) -> dict:
    return json.loads((run.path / "check.json").read_text())


def test_a_good_file_is_counted_previewed_and_tried(make_run, write, reviews) -> None:
    run = make_run(training_file=write(reviews[:24]))
    assert main([str(run.path), "--check"], Flag()) is Exit.FINISHED
    report = checked(run)
    tokens = report["training"]["tokens"]
    assert report["ok"]
    assert tokens["sequences"] == 24
    assert 0 < tokens["trained_tokens"] < tokens["tokens"]
    assert tokens["without_stop"] == tokens["without_loss"] == tokens["too_long"] == []
    question, answer = tokens["preview"][0]
    assert question[1] is False
    assert answer == [reviews[0]["messages"][1]["content"] + "<|im_end|>", True]
    assert report["estimate"]["fits"]
    assert report["estimate"]["seconds"] > 0
    assert report["estimate"]["steps"] == report["hyperparameters"]["steps"]
    assert run.checkpoints() == run.events() == []


def test_a_row_that_is_too_long_is_refused_before_anything_runs(make_run, write, reviews) -> None:
    long = {"messages": [reviews[0]["messages"][0], {"role": "assistant", "content": "long " * 5000}]}
    run = make_run(training_file=write([*reviews[:12], long, {"messages": []}]))
    assert main([str(run.path), "--check"], Flag()) is Exit.REFUSED
    report = checked(run)
    assert {(fault["line"], fault["kind"]) for fault in report["training"]["faults"]} == {
        (13, "too_many_tokens"),
        (14, "no_messages"),
    }
    assert report["training"]["tokens"]["too_long"] == [13]
    assert "estimate" not in report
