"""`patchbay eval` against a running server, whose fake models answer with their names."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from tests.server.cli.conftest import Patchbay


def training_file(path: Path, *answers: str) -> Path:
    rows = [
        {"messages": [{"role": "user", "content": f"q{n} <b>"}, {"role": "assistant", "content": answer}]}
        for n, answer in enumerate(answers)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_models_are_compared_on_a_training_file_and_a_report_is_written(call: Patchbay, tmp_path: Path) -> None:
    data = training_file(tmp_path / "rows.jsonl", *["sql@1"] * 15, *["base"] * 3, "<script>", "x")
    report = tmp_path / "report"
    result = call("eval", str(data), "base", "sql", "json", "--report", str(report))
    assert result.exit_code == 0, result.output
    header, *lines = result.stdout.splitlines()
    assert header.split()[:3] == ["MODEL", "SCORE", "PASSED"]
    base, sql, other = (line.split() for line in lines)
    assert base[:4] == ["base", "0.150", "15.0", "%"]
    assert sql[:5] == ["sql", "0.750", "75.0", "%", "+0.600"]
    assert other[:5] == ["json", "0.000", "0.0", "%", "-0.150"]
    written = json.loads((report / "report.json").read_text())
    _, compared, _ = written["models"]
    assert (compared["version"], compared["passed"], compared["failed"], compared["errored"]) == ("sql@1", 15, 5, 0)
    assert [compared["comparison"][kind]["count"] for kind in ("wins", "ties", "losses")] == [15, 2, 3]
    low, high = compared["comparison"]["interval"]
    assert 0 < low < 0.6 < high
    with (report / "rows.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 20
    assert rows[0]["question"] == "q0 <b>"
    assert (rows[0]["sql answer"], rows[0]["sql score"], rows[0]["sql status"]) == ("sql@1", "1.0", "pass")
    page = (report / "report.html").read_text()
    assert page.count('role="img"') == 3
    assert "&lt;script&gt;" in page
    assert "<script>" not in page
    assert "http" not in page


def test_items_and_a_grader_may_be_ones_own(call: Patchbay, tmp_path: Path) -> None:
    data = tmp_path / "items.jsonl"
    rows = [{"item": {"question": "who?", "name": "SQL"}}, {"item": {"messages": [{"role": "user", "content": "?"}]}}]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    grader = {"type": "string_check", "input": "{{sample.output_text}}", "reference": "sql", "operation": "ilike"}
    inline = call("eval", str(data), "sql", "--grader", json.dumps(grader), "--json", "--report", str(tmp_path / "r"))
    (model,) = json.loads(inline.stdout)["models"]
    assert (model["mean_score"], model["comparison"]) == (1.0, None)
    (tmp_path / "grader.json").write_text(json.dumps(grader))
    from_file = call(
        "eval", str(data), "sql", "--grader", str(tmp_path / "grader.json"), "--report", str(tmp_path / "s")
    )
    assert from_file.exit_code == 0


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "has no rows"),
        ('{"item": {"a": 1}}\n', "found 0 of them"),
        ('{"item": {"question": "a", "input": "b"}}\n', "found 2 of them"),
        ('{"item": {"question": "a"}}\n[]\n', "line 2"),
        ('{"messages": [{"role": "user", "content": "a"}]}\n', "row 1"),
        ('{"prompt": "a", "chosen": "b", "rejected": "c"}\n', "use chats"),
    ],
)
def test_a_file_that_cannot_be_evaluated_is_refused(call: Patchbay, tmp_path: Path, content: str, says: str) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text(content)
    result = call("eval", str(data), "base")
    assert result.exit_code != 0
    assert says in result.stderr


@pytest.mark.parametrize(
    ("grader", "says"),
    [
        ("nothing.json", "exact, contains, similar"),
        ("[1]", "--grader"),
        ('{"type": "magic"}', "testing_criteria.0.type"),
    ],
)
def test_a_grader_that_is_none_is_refused(call: Patchbay, tmp_path: Path, grader: str, says: str) -> None:
    result = call("eval", str(training_file(tmp_path / "rows.jsonl", "a")), "base", "--grader", grader)
    assert result.exit_code != 0
    assert says in result.stderr


def test_an_unknown_model_is_not_found(call: Patchbay, tmp_path: Path) -> None:
    assert call("eval", str(training_file(tmp_path / "rows.jsonl", "a")), "nothing").exit_code == 4
