"""The preflight tells what a run would meet, and refuses what would fail."""

import errno
import json
import shutil
import signal
import subprocess
import sys
from threading import Event as Flag
from typing import Any

import pytest
from safetensors import SafetensorError

from embedded import ADAPTERS, BASE, DATA
from tests.trainer.data.faulty_rows import ANSWER, CHATS, LINES, PREFERENCES, USER, chat, preference
from tests.trainer.methods.children import watch
from trainer.data.faults import FaultKind
from trainer.methods import __main__ as methods_main
from trainer.methods import reinforcement
from trainer.methods.__main__ import main
from trainer.methods.policy_client import made_up
from trainer.rendering.tally import MOST_LINES, PREVIEWED_CHARACTERS
from trainer.run_directory import Exit, RunDirectory
from trainer.training_method import TrainingMethod

WORSE = {"role": "assistant", "content": "Go away"}
TOO_LONG = (FaultKind.TOO_MANY_TOKENS, chat(USER, {"role": "assistant", "content": "long " * 5000}))


def line(row: Any) -> bytes:
    return row if isinstance(row, bytes) else json.dumps(row).encode()


def checked(run: RunDirectory) -> dict:
    """The verdict; whatever it is, the child ends well, and with no trace but ``check.json``."""
    assert main([str(run.path), "--preflight"], Flag()) is Exit.FINISHED
    assert run.checkpoints() == run.events() == []
    assert run.result() is None
    return run.preflight()


def test_a_good_file_is_counted_previewed_and_tried(make_run, write, reviews) -> None:
    report = checked(make_run(training_file=write(reviews[:24])))
    assert (report["ok"], report["reason"], report["validation"]) == (True, None, None)
    tokens = report["training"]["tokens"]
    assert tokens["sequences"] == 24
    assert 0 < tokens["trained_tokens"] < tokens["tokens"]
    assert tokens["without_stop"] == tokens["without_loss"] == tokens["too_long"] == []
    assert tokens["lines"] == {"without_stop": 0, "without_loss": 0, "too_long": 0}
    question, answer = tokens["preview"][0]
    assert question[1] is False
    assert answer == [reviews[0]["messages"][1]["content"] + "<|im_end|>", True]
    estimate = report["estimate"]
    assert set(estimate) == {
        "fits",
        "steps",
        "tokens_per_second",
        "seconds",
        "seconds_per_million_tokens",
        "peak_memory_bytes",
    }
    assert estimate["fits"]
    assert estimate["seconds"] > 0
    assert estimate["steps"] == report["hyperparameters"]["steps"]


def test_every_kind_of_fault_in_both_files_is_told_on_its_line(make_run, tmp_path, reviews) -> None:
    good, faulty = reviews[:12], [*LINES, *CHATS, TOO_LONG]
    files = {"training_file": tmp_path / "train.jsonl", "validation_file": tmp_path / "valid.jsonl"}
    for file in files.values():
        file.write_bytes(b"\n".join(map(line, [*good, *(row for _, row in faulty), good[0]])) + b"\n")
    report = checked(make_run(**files))
    for name in ("training", "validation"):
        found = [(fault["line"], fault["kind"]) for fault in report[name]["faults"]]
        assert found == [(len(good) + number, kind) for number, (kind, _) in enumerate(faulty, 1)]
        assert (report[name]["ok"], report[name]["rows"]) == (False, len(good) + 1)
        assert report[name]["tokens"]["too_long"] == [len(good) + len(faulty)]
        assert "duplicate_row" in {warning["kind"] for warning in report[name]["warnings"]}
    assert "leakage" in {warning["kind"] for warning in report["validation"]["warnings"]}
    assert (report["ok"], report["reason"], report["hyperparameters"], report["estimate"]) == (False, None, None, None)


def test_every_kind_of_fault_of_preferences_is_told_on_its_line(make_run, write) -> None:
    good = [preference(input={"messages": [{"role": "user", "content": f"Hi {number}"}]}) for number in range(10)]
    rows = write([*good, *(row for _, row in PREFERENCES)])
    report = checked(make_run(training_file=rows, method=TrainingMethod.DPO))
    found = {(fault["line"], fault["kind"]) for fault in report["training"]["faults"]}
    assert found == {(len(good) + number, kind) for number, (kind, _) in enumerate(PREFERENCES, 1)}


def test_the_verdict_stays_small_however_wrong_a_file_is(make_run, write) -> None:
    lines = MOST_LINES + 200
    report = checked(make_run(training_file=write([{"messages": [USER, ANSWER]}] * lines), max_length=5))
    tokens = report["training"]["tokens"]
    assert tokens["too_long"] == list(range(1, MOST_LINES + 1))
    assert tokens["lines"]["too_long"] == lines
    assert len(report["training"]["faults"]) == lines


def test_a_long_row_is_previewed_by_its_ends(make_run, write, reviews) -> None:
    content = "start " + "word " * 1000 + "end"
    long = {"messages": [reviews[0]["messages"][0], {"role": "assistant", "content": content}]}
    report = checked(make_run(training_file=write([long, *reviews[:2]])))  # too few rows: no dry run
    text, trained = report["training"]["tokens"]["preview"][0][-1]
    assert trained
    assert len(text) <= PREVIEWED_CHARACTERS + 3
    assert text.startswith("start word")
    assert text.endswith("end<|im_end|>")


def test_rows_that_are_all_too_long_to_keep_are_a_fault(make_run, write, reviews) -> None:
    report = checked(make_run(training_file=write(reviews[:20]), max_length=5, drop_long=True))
    assert [fault["kind"] for fault in report["training"]["faults"]] == ["empty_file"]
    assert report["training"]["tokens"]["lines"]["too_long"] == 20


@pytest.mark.parametrize(
    "options",
    [
        {"packing": True},
        {"batch_size": 64},
        {"warm_start": ADAPTERS / "sql"},
        {"processes": 2, "batch_size": 5},
        {"quantization": "4bit"},
    ],
)
def test_the_longest_rows_are_tried_as_the_run_would_take_them(make_run, write, reviews, options) -> None:
    report = checked(make_run(training_file=write(reviews[:20]), **options))
    assert report["ok"], report
    assert report["estimate"]["tokens_per_second"] > 0


@pytest.fixture
def rows_for(reviews):
    """Fourteen rows for a method."""

    def rows_for(method: TrainingMethod) -> list[dict]:
        talks = [row["messages"] for row in reviews[:14]]
        match method:
            case TrainingMethod.SUPERVISED | TrainingMethod.FULL:
                return reviews[:14]
            case TrainingMethod.DPO | TrainingMethod.REWARD:
                return [
                    {"input": {"messages": [asked]}, "preferred_output": [answer], "non_preferred_output": [WORSE]}
                    for asked, answer in talks
                ]
            case TrainingMethod.KTO:
                return [
                    {"messages": [asked, answer if number % 2 else WORSE], "label": bool(number % 2)}
                    for number, (asked, answer) in enumerate(talks)
                ]
            case TrainingMethod.REINFORCEMENT:
                return [{"messages": [asked]} for asked, _ in talks]

    return rows_for


@pytest.mark.parametrize("options", [{"warm_start": ADAPTERS / "sql"}, {"batch_size": 1}])
@pytest.mark.parametrize("method", [TrainingMethod.DPO, TrainingMethod.KTO])
def test_preferences_are_tried_too(make_run, write, rows_for, method: TrainingMethod, options) -> None:
    report = checked(make_run(training_file=write(rows_for(method)), method=method, **options))
    assert report["ok"], report
    assert report["hyperparameters"]["batch_size"] >= (2 if method is TrainingMethod.KTO else 1)


def test_answers_that_no_server_has_drawn_yet_are_tried_at_their_full_length(
    make_run, write, rows_for, monkeypatch
) -> None:
    method, numbers = TrainingMethod.REINFORCEMENT, {"n_epochs": 2, "batch_size": 4, "max_completion_tokens": 8}
    run = make_run(training_file=write(rows_for(method)), method=method, compute_multiplier=0.25, **numbers)
    report = checked(run)
    assert report["ok"], report
    monkeypatch.setattr(reinforcement, "connected", lambda: made_up)
    assert main([str(run.path)], Flag()) is Exit.FINISHED
    result = run.result()
    assert result.steps == report["estimate"]["steps"] == 2 * (14 // 4)
    assert result.hyperparameters == report["hyperparameters"]
    assert report["hyperparameters"]["samples"] == 2
    assert report["estimate"]["seconds"] > 0


@pytest.mark.parametrize("method", [each for each in TrainingMethod if not (each.draws or each.traits.is_taught)])
def test_the_tokens_and_steps_that_are_told_are_those_that_a_run_takes(make_run, write, rows_for, method) -> None:
    run = make_run(training_file=write(rows_for(method)), method=method, n_epochs=2, batch_size=4)
    report = checked(run)
    assert report["ok"], report
    assert main([str(run.path)], Flag()) is Exit.FINISHED
    result = run.result()
    assert result.trained_tokens == 2 * report["training"]["tokens"]["tokens"]
    assert result.steps == report["estimate"]["steps"] == 8
    assert result.hyperparameters == report["hyperparameters"]
    assert result.renderer_sha256 == report["renderer_sha256"]


def test_a_scale_that_blows_up_is_told_before_the_job_waits(make_run, write, reviews) -> None:
    report = checked(make_run(training_file=write(reviews[:16]), alpha=1e30))
    assert report["ok"] is False
    assert "not a finite number" in report["reason"]
    assert report["training"]["ok"]
    assert report["estimate"] is None


def test_a_base_without_chat_template_is_told(make_run, tmp_path) -> None:
    base = tmp_path / "bare"
    shutil.copytree(BASE, base)
    (base / "chat_template.jinja").unlink()
    report = checked(make_run(base=base))
    assert (report["ok"], report["training"]) == (False, None)
    assert "chat template" in report["reason"]


@pytest.mark.parametrize("gone", ["base", "training_file"])
def test_what_is_not_there_is_told(make_run, tmp_path, gone) -> None:
    report = checked(make_run(**{gone: tmp_path / "gone"}))
    assert report["ok"] is False
    assert "gone" in report["reason"]


@pytest.mark.parametrize(
    "written", [None, b"", b"{", b"[]", b"{}", b'{"base": "x"}', b'{"base": "b", "training_file": "t", "mood": 1}']
)
def test_a_spec_that_cannot_be_read_is_told(tmp_path, written) -> None:
    if written is not None:
        (tmp_path / "spec.json").write_bytes(written)
    run = RunDirectory(tmp_path)
    report = checked(run)
    assert report["ok"] is False
    assert report["reason"]
    assert main([str(tmp_path)], Flag()) is Exit.REFUSED
    assert run.events()[-1].level == "error"


@pytest.mark.parametrize("arguments", [[], ["--preflight"]])
@pytest.mark.parametrize(
    "trouble",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        SafetensorError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_no_verdict_and_no_death(make_run, write, reviews, monkeypatch, trouble, arguments) -> None:
    def train(*_: object) -> None:
        raise trouble

    monkeypatch.setattr(methods_main, "_train", train)
    run = make_run(training_file=write(reviews[:12]))
    assert main([str(run.path), *arguments], Flag()) is Exit.NO_SPACE
    assert run.events() == []
    assert not (run.path / "check.json").exists()


def test_signals_of_a_terminal_do_not_end_a_check(make_run) -> None:
    run = make_run(training_file=DATA / "sentiment" / "heldout.jsonl")
    with subprocess.Popen([sys.executable, "-m", "trainer.methods", run.path, "--preflight"]) as process:
        watch(process, (run.path / "lock").exists)
        for asked in (signal.SIGTERM, signal.SIGINT):
            process.send_signal(asked)
        assert process.wait() == Exit.FINISHED
    assert run.preflight()["ok"]
