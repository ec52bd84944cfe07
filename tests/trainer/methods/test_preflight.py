"""The preflight tells what a run would meet, and refuses what would fail."""

import json
import shutil
import signal
import subprocess
import sys
from threading import Event as Flag

import pytest

from embedded import ADAPTERS, BASE, DATA
from trainer.data.faults import FaultKind
from trainer.methods.__main__ import main
from trainer.methods.tally import MOST_LINES, PREVIEWED_CHARACTERS
from trainer.run_directory import Exit, RunDirectory
from trainer.run_spec import Method

USER = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Hello"}
WORSE = {"role": "assistant", "content": "Go away"}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


def call(name: str = "add", arguments: str = "{}") -> dict:
    function = {"name": name, "arguments": arguments}
    return {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": function}]}


def chat(*messages, **more) -> bytes:
    return json.dumps({"messages": messages, **more}).encode()


FAULTY: list[tuple[FaultKind, bytes]] = [
    (FaultKind.BAD_JSON, b'{"messages": ['),
    (FaultKind.NOT_UTF8, b'{"messages": "caf\xe9"}'),
    (FaultKind.REPEATED_KEY, b'{"messages": [], "messages": []}'),
    (FaultKind.NOT_A_NUMBER, b'{"messages": NaN}'),
    (FaultKind.TOO_DEEP, b"[" * 100_000),
    (FaultKind.LONE_SURROGATE, b'{"messages": "\\ud800"}'),
    (FaultKind.NUL_CHARACTER, b'{"messages": "a\\u0000"}'),
    (FaultKind.NOT_AN_OBJECT, b"[]"),
    (FaultKind.UNKNOWN_FORMAT, b'{"text": "Once upon a time"}'),
    (FaultKind.BLANK_LINE, b"   "),
    (FaultKind.LINE_TOO_LONG, b'{"messages": "' + b"a" * (9 << 20) + b'"}'),
    (FaultKind.MIXED_FORMATS, b'{"prompt": "a", "completion": "b"}'),
    (FaultKind.UNKNOWN_KEY, chat(USER, ANSWER, comment="x")),
    (FaultKind.WRONG_TYPE, chat("Hi", ANSWER)),
    (FaultKind.MISSING_KEY, chat({"role": "user"}, ANSWER)),
    (FaultKind.NO_MESSAGES, chat()),
    (FaultKind.WRONG_ROLE, chat({"role": "human", "content": "Hi"}, ANSWER)),
    (FaultKind.ROLE_ORDER, chat(ANSWER, USER, ANSWER)),
    (FaultKind.NO_ANSWER, chat(USER)),
    (FaultKind.LAST_NOT_ASSISTANT, chat(USER, ANSWER, USER)),
    (FaultKind.EMPTY_ANSWER, chat(USER, {"role": "assistant", "content": " \n"})),
    (FaultKind.EMPTY_PROMPT, chat({"role": "user", "content": ""}, ANSWER)),
    (FaultKind.UNSUPPORTED_PART, chat({"role": "user", "content": [{"type": "image_url"}]}, ANSWER)),
    (FaultKind.BAD_WEIGHT, chat(USER, {**ANSWER, "weight": 0.5})),
    (FaultKind.WEIGHT_ELSEWHERE, chat({**USER, "weight": 1}, ANSWER)),
    (FaultKind.NOTHING_TRAINED, chat(USER, {**ANSWER, "weight": 0})),
    (FaultKind.BAD_TOOL, chat(USER, ANSWER, tools=[{"name": "add"}])),
    (FaultKind.REPEATED_TOOL, chat(USER, ANSWER, tools=[TOOL, TOOL])),
    (FaultKind.CALL_WITHOUT_TOOLS, chat(USER, call())),
    (FaultKind.UNKNOWN_TOOL, chat(USER, call("subtract"), tools=[TOOL])),
    (FaultKind.BAD_CALL, chat(USER, {"role": "assistant", "tool_calls": []}, tools=[TOOL])),
    (FaultKind.BAD_ARGUMENTS, chat(USER, call(arguments="{a: 1}"), tools=[TOOL])),
    (FaultKind.UNANSWERED_CALL, chat(USER, call(), USER, ANSWER, tools=[TOOL])),
    (FaultKind.TOO_MANY_TOKENS, chat(USER, {"role": "assistant", "content": "long " * 5000})),
]


def checked(run: RunDirectory) -> dict:
    """The verdict; whatever it is, the child ends well, and with no trace but ``check.json``."""
    assert main([str(run.path), "--check"], Flag()) is Exit.FINISHED
    assert run.checkpoints() == run.events() == []
    assert run.result() is None
    return run.check()


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
    good = [json.dumps(row).encode() for row in reviews[:12]]
    files = {"training_file": tmp_path / "train.jsonl", "validation_file": tmp_path / "valid.jsonl"}
    for file in files.values():
        file.write_bytes(b"\n".join([*good, *(raw for _, raw in FAULTY), *good[:1]]) + b"\n")
    report = checked(make_run(**files))
    expected = [(len(good) + number, kind) for number, (kind, _) in enumerate(FAULTY, 1)]
    for name in ("training", "validation"):
        assert report[name]["ok"] is False
        assert [(fault["line"], fault["kind"]) for fault in report[name]["faults"]] == expected
        assert report[name]["rows"] == 13
        assert report[name]["tokens"]["too_long"] == [len(good) + len(FAULTY)]
        assert {"duplicate_row"} <= {warning["kind"] for warning in report[name]["warnings"]}
    assert {"leakage"} <= {warning["kind"] for warning in report["validation"]["warnings"]}
    assert (report["ok"], report["reason"], report["hyperparameters"], report["estimate"]) == (False, None, None, None)


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


@pytest.mark.parametrize("said", [{"packing": True}, {"batch_size": 64}, {"warm_start": ADAPTERS / "sql"}])
def test_the_longest_rows_are_tried_as_the_run_would_take_them(make_run, write, reviews, said) -> None:
    report = checked(make_run(training_file=write(reviews[:20]), **said))
    assert report["ok"], report
    assert report["estimate"]["tokens_per_second"] > 0


@pytest.fixture
def rows_for(reviews):
    """Fourteen rows for a method."""

    def rows_for(method: Method) -> list[dict]:
        talks = [row["messages"] for row in reviews[:14]]
        match method:
            case Method.SUPERVISED:
                return reviews[:14]
            case Method.DPO:
                return [
                    {"input": {"messages": [asked]}, "preferred_output": [answer], "non_preferred_output": [WORSE]}
                    for asked, answer in talks
                ]
            case Method.KTO:
                return [
                    {"messages": [asked, answer if number % 2 else WORSE], "label": bool(number % 2)}
                    for number, (asked, answer) in enumerate(talks)
                ]

    return rows_for


@pytest.mark.parametrize("said", [{"warm_start": ADAPTERS / "sql"}, {"batch_size": 1}])
@pytest.mark.parametrize("method", [Method.DPO, Method.KTO])
def test_preferences_are_tried_too(make_run, write, rows_for, method: Method, said) -> None:
    report = checked(make_run(training_file=write(rows_for(method)), method=method, **said))
    assert report["ok"], report
    assert report["hyperparameters"]["batch_size"] >= (2 if method is Method.KTO else 1)


@pytest.mark.parametrize("method", list(Method))
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


def test_a_rate_that_blows_up_is_told_before_the_job_waits(make_run, write, reviews) -> None:
    report = checked(make_run(training_file=write(reviews[:16]), learning_rate_multiplier=1e30))
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


def test_signals_of_a_terminal_do_not_end_a_check(make_run) -> None:
    run = make_run(training_file=DATA / "sentiment" / "heldout.jsonl")
    with subprocess.Popen([sys.executable, "-m", "trainer.methods", run.path, "--check"]) as process:
        while not (run.path / "lock").exists():
            assert process.poll() is None
        for asked in (signal.SIGTERM, signal.SIGINT):
            process.send_signal(asked)
        assert process.wait() == Exit.FINISHED
    assert run.check()["ok"]
