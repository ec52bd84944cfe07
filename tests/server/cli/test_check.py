"""`patchbay check`: a real preflight on the embedded base, one for each verdict, and how it reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from embedded import BASE, DATA
from server.cli import app
from server.cli.verdict import show_verdict
from tests.server.cli.conftest import Patchbay
from trainer.run_spec import RunSpec

MARKED = "\x1b[7;32m"

Report = dict[str, Any]
Show = Callable[..., list[str]]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``good.jsonl``, ``held-out.jsonl`` with a prompt of it, and ``bad.jsonl``."""
    folder = tmp_path_factory.mktemp("check")
    rows = (DATA / "sentiment" / "train.jsonl").read_text().splitlines()
    held_out = (DATA / "sentiment" / "heldout.jsonl").read_text().splitlines()
    (folder / "good.jsonl").write_text("\n".join([*rows[:24], rows[2]]))
    (folder / "held-out.jsonl").write_text("\n".join([*held_out[:11], rows[0]]))
    (folder / "bad.jsonl").write_text("\n".join([*rows[:12], "no json", '{"messages": []}', *['{"a": 1}'] * 60]))
    return folder


@pytest.fixture(scope="session")
def good(folder: Path) -> Result:
    files = [str(folder / "good.jsonl"), "--validation", str(folder / "held-out.jsonl")]
    return CliRunner().invoke(app, ["check", *files, "--epochs", "2", "--batch-size", "8", "--rank", "4", "--json"])


@pytest.fixture(scope="session")
def bad(folder: Path) -> Result:
    return CliRunner().invoke(app, ["check", str(folder / "bad.jsonl")])


@pytest.fixture
def report(good: Result) -> Report:
    return json.loads(good.stdout)


@pytest.fixture
def spec(folder: Path) -> RunSpec:
    return RunSpec(base=BASE, training_file=folder / "good.jsonl", validation_file=folder / "held-out.jsonl")


@pytest.fixture
def shown(spec: RunSpec, capsys: pytest.CaptureFixture[str]) -> Show:
    """Prints a report and returns its lines."""

    def show(report: Report, cost_per_hour: float | None = None) -> list[str]:
        show_verdict(spec, report, cost_per_hour)
        return [line.rstrip() for line in capsys.readouterr().out.splitlines()]

    return show


def fields(lines: list[str], heading: str) -> dict[str, str]:
    """The lines under a heading, as name → value."""
    rest = lines[lines.index(heading) + 1 :]
    found = rest[: rest.index("")] if "" in rest else rest
    return {name: value.strip() for name, _, value in (line.partition("  ") for line in found)}


def test_a_good_file_exits_with_0_and_json_has_what_the_preflight_found(good: Result, report: Report) -> None:
    assert good.exit_code == 0
    assert report["ok"]
    assert report["hyperparameters"]["n_epochs"] == 2
    assert report["hyperparameters"]["batch_size"] == 8
    assert report["training"]["rows"] == 25
    assert report["estimate"]["fits"]


def test_a_good_file_reads_as_a_verdict_and_its_counts(shown: Show, report: Report, spec: RunSpec) -> None:
    lines = shown(report)
    assert lines[0] == f"{spec.training_file} is fit to train: supervised, 25 rows"
    tokens = fields(lines, "Tokens")
    assert tokens["rows"].split() == ["25", "12"]
    assert tokens["trained tokens"].split()[0] == str(report["training"]["tokens"]["trained_tokens"])
    assert tokens["too long"].split() == tokens["answers without end-of-turn"].split() == ["0", "0"]


def test_warnings_are_gathered_by_kind_and_refuse_nothing(shown: Show, report: Report, spec: RunSpec) -> None:
    lines = shown(report)
    assert f"{spec.training_file}:25: warning, duplicate row: the same row as line 3" in lines
    assert any(line.startswith(f"{spec.validation_file}:12: warning, leakage") for line in lines)
    again = [
        {"line": line, "kind": "duplicate_row", "message": f"the same row as line {line - 1}"} for line in range(2, 10)
    ]
    lines = shown({**report, "training": {**report["training"], "warnings": again}})
    words = "lines 2, 3, 4, 5, 6 and 3 more: warning, duplicate row: the same row as line 1"
    assert f"{spec.training_file}, {words}" in lines


def test_a_warning_of_many_rows_is_one_line_with_their_number(shown: Any, report: Any, spec: RunSpec) -> None:
    columns = [
        {"line": 1, "kind": "ignored_key", "message": f"the column '{name}' is ignored", "rows": rows}
        for name, rows in (("id", 1200), ("source", 1))
    ]
    lines = shown({**report, "training": {**report["training"], "warnings": columns}})
    name = spec.training_file
    assert f"{name}, 1,200 rows from line 1 on: warning, ignored key: the column 'id' is ignored" in lines
    assert f"{name}:1: warning, ignored key: the column 'source' is ignored" in lines


def test_strict_makes_warnings_a_refusal(folder: Path, report: Any, monkeypatch: Any) -> None:
    async def preflight(_: RunSpec) -> Any:
        return report

    monkeypatch.setattr("trainer.child.run_preflight", preflight)
    ran = {
        strict: CliRunner().invoke(app, ["check", str(folder / "good.jsonl"), *strict])
        for strict in ((), ("--strict",))
    }
    assert [ran[()].exit_code, ran["--strict",].exit_code] == [0, 1]
    assert ran["--strict",].stdout.startswith("refused: --strict, and there are warnings of ")


def test_strict_refuses_no_file_for_its_size_alone(folder: Path, report: Any, monkeypatch: Any) -> None:
    few = [{"line": None, "kind": "few_rows", "message": "12 rows: below 100", "rows": 1}]

    async def preflight(_: RunSpec) -> Any:
        return {**report, "training": {**report["training"], "warnings": few}, "validation": None}

    monkeypatch.setattr("trainer.child.run_preflight", preflight)
    assert CliRunner().invoke(app, ["check", str(folder / "good.jsonl"), "--strict"]).exit_code == 0


def test_the_format_is_among_the_counts(shown: Any, report: Any) -> None:
    assert fields(shown(report), "Tokens")["format"].split() == ["chat", "chat"]


def test_lines_that_need_a_look_are_counted_and_the_first_are_named(shown: Any, report: Any) -> None:
    tokens = report["training"]["tokens"]
    listed = {"without_loss": [3], "too_long": list(range(1, 1001))}
    tokens = {**tokens, **listed, "lines": {**tokens["lines"], "without_loss": 1, "too_long": 2000}}
    counts = fields(shown({**report, "training": {**report["training"], "tokens": tokens}}), "Tokens")
    assert counts["without any trained token"].startswith("1 (line 3)")
    assert counts["too long"].startswith("2,000 (lines 1, 2, 3, 4, 5 and 1,995 more)")


def test_a_run_that_the_base_refuses_is_told_in_one_line(shown: Show, report: Report) -> None:
    nothing = dict.fromkeys(("renderer_sha256", "training", "validation", "hyperparameters", "estimate"))
    assert shown({**report, **nothing, "ok": False, "reason": "the base has no chat template"}) == [
        "refused: the base has no chat template"
    ]


def test_what_is_trained_is_marked_in_a_pipe_by_brackets(shown: Show, report: Report) -> None:
    preview = shown(report)
    assert "⟦positive<|im_end|>⟧" in preview
    assert "Very great view, quite delicious pizza.<|im_end|>" in preview


def test_what_is_trained_is_marked_on_a_terminal_by_colour(
    shown: Show, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    text = "\n".join(shown(report))
    assert f"{MARKED}positive<|im_end|>" in text
    assert "⟦" not in text


def test_a_long_stretch_is_shown_by_its_ends(shown: Show, report: Report) -> None:
    tokens = {**report["training"]["tokens"], "preview": [[["a" * 1000, False], ["yes", True]]]}
    lines = shown({**report, "training": {**report["training"], "tokens": tokens}})
    assert f"{'a' * 200} […600 characters…] {'a' * 200}⟦yes⟧" in lines


def test_what_auto_became_and_what_training_takes_is_told(shown: Show, report: Report) -> None:
    estimate = {
        "fits": True,
        "steps": 1200,
        "tokens_per_second": 2000.0,
        "seconds": 5400.0,
        "seconds_per_million_tokens": 500.0,
        "peak_memory_bytes": 2_000_000_000,
    }
    lines = shown({**report, "estimate": estimate}, cost_per_hour=2.0)
    assert fields(lines, "Hyperparameters")["n epochs"] == "2"
    assert fields(lines, "Here it takes about") == {
        "steps": "1,200",
        "time": "1 h 30 min",
        "speed": "2,000 tokens/s",
        "a million tokens": "8 min 20 s",
        "peak memory": "2.0 GB",
        "cost": "3.00 the run, 0.278 a million tokens",
    }
    assert "cost" not in fields(shown(report), "Here it takes about")
    needed = {"trained_parameters": 2_000_000, "state_bytes": 32_000_000, "disk_bytes": 60_000_000}
    whole = fields(shown({**report, "estimate": estimate | needed}), "Here it takes about")
    assert whole["trained"] == "2,000,000 numbers of the base model"
    assert (whole["weights, gradients, optimizer"], whole["disk"]) == ("32.0 MB", "60.0 MB")


def test_a_run_that_does_not_fit_is_refused_with_the_reason(shown: Show, report: Report) -> None:
    reason = "CUDA out of memory"
    estimate = {"fits": False, "reason": reason, "steps": 10}
    lines = shown({**report, "ok": False, "reason": reason, "estimate": estimate})
    assert lines[0] == "refused: CUDA out of memory"
    assert "Here it takes about" not in lines


def test_a_bad_file_exits_with_1_and_every_fault_has_its_line(bad: Result, folder: Path) -> None:
    assert bad.exit_code == 1
    lines = bad.stdout.splitlines()
    name = folder / "bad.jsonl"
    assert lines[0] == f"refused: 62 faults in {name}"
    assert lines[1].startswith(f"{name}:13: found ")
    assert lines[2] == f"{name}:14 messages: found an empty list; needed a user's message and an answer"
    assert sum(line.startswith(f"{name}:") for line in lines[1:51]) == 50
    assert lines[51] == "and 12 more (--json has all)"
    assert "Hyperparameters" not in lines


@pytest.mark.parametrize(
    "options",
    [
        ["none.jsonl"],
        ["good.jsonl", "--model", "."],
        ["good.jsonl", "--warm-start", "."],
        ["good.jsonl", "--rank", "0"],
    ],
)
def test_what_is_called_wrongly_starts_nothing(patchbay: Patchbay, folder: Path, options: list[str]) -> None:
    file, *rest = options
    rest = [str(folder) if option == "." else option for option in rest]
    assert patchbay("check", str(folder / file), *rest).exit_code == 2


def test_the_servers_chat_template_renders_the_rows(folder: Path, tmp_path: Path) -> None:
    template = tmp_path / "served.jinja"
    template.write_text(
        "{%- for m in messages -%}{{ opening }}{{ m.role }}: {{ m.content }}<|im_end|>{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{ opening }}assistant: {% endif -%}"
    )
    flags = ["--chat-template", str(template), "--default-chat-template-kwargs", '{"opening": "# "}']
    report = json.loads(CliRunner().invoke(app, ["check", str(folder / "good.jsonl"), *flags, "--json"]).stdout)
    asked, answered = report["training"]["tokens"]["preview"][0]
    assert (asked[0][:8], asked[0].endswith("# assistant: "), asked[1], answered[1]) == ("# user: ", True, False, True)


def test_template_arguments_are_a_json_object(folder: Path) -> None:
    refused = CliRunner().invoke(app, ["check", str(folder / "good.jsonl"), "--default-chat-template-kwargs", "[1]"])
    assert refused.exit_code == 2
