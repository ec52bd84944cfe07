"""The guard complains of what is clearly slower than it was, and of nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.cli import app
from bench.record import Row, hardware
from bench.scenarios.guard import LEAST, LEAST_ELSEWHERE, judge, newest_ratio


def test_what_is_a_little_slower_passes() -> None:
    assert judge(2.0 * LEAST + 0.01, 2.0).startswith("as fast as it was")
    assert judge(2.5, 2.0).startswith("as fast as it was")


def test_what_is_much_slower_is_complained_of_with_both_numbers() -> None:
    verdict = judge(1.5, 2.0)
    assert verdict.startswith("SLOWER")
    assert "1.50 of stock vLLM's" in verdict
    assert "committed 2.00" in verdict


def test_on_other_hardware_only_what_is_slower_than_stock_is_complained_of() -> None:
    assert judge(LEAST_ELSEWHERE, None).startswith("not slower than stock vLLM")
    assert judge(LEAST_ELSEWHERE - 0.1, None).startswith("SLOWER than stock vLLM")


def line(ratio: float, measured_on: str) -> Row:
    return {"hardware": measured_on, "rows": [{"ratio": {"tokens_per_s": [ratio, 0, 9]}}]}


def test_the_committed_ratio_is_the_last_one_of_this_hardware(tmp_path: Path) -> None:
    lines = [line(1.0, hardware()), line(2.5, hardware()), line(9.0, "another machine")]
    (tmp_path / "guard.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    assert newest_ratio(tmp_path) == 2.5
    (tmp_path / "guard.jsonl").write_text(json.dumps(lines[-1]) + "\n")
    assert newest_ratio(tmp_path) is None


@pytest.mark.parametrize(
    ("measured", "status"),
    [
        pytest.param([1.9], 0, id="fast"),
        pytest.param([1.0, 1.9], 0, id="slow for a while"),
        pytest.param([1.0, 1.1], 1, id="slow"),
    ],
)
def test_only_what_is_slow_twice_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: list[float], status: int
) -> None:
    (tmp_path / "guard.jsonl").write_text(json.dumps(line(2.0, hardware())) + "\n")
    found = iter(measured)
    monkeypatch.setattr("bench.scenarios.guard.run", lambda _: line(next(found), hardware()))
    assert CliRunner().invoke(app, ["guard", "--out", str(tmp_path)]).exit_code == status
    assert list(found) == []


def test_without_a_committed_ratio_nothing_is_measured(tmp_path: Path) -> None:
    refused = CliRunner().invoke(app, ["guard", "--out", str(tmp_path)])
    assert refused.exit_code == 2
    assert "--write" in refused.output
