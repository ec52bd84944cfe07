"""README and the pages of results are generated from the newest results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.plots import draw
from bench.report import BEGIN, END, GPU, newest, tables, with_numbers

SERVER = {
    "tokens_per_s": 120.0,
    "first_ms": {"n": 9, "p50": 12.3, "p99": 20.0, "max": 21.0},
    "between_ms": {"n": 90, "p50": 8.0, "p99": 9.0, "max": 10.0},
    "client_cpu": 0.1,
    "failures": {},
}
LINE = {
    "scenario": "overhead",
    "at": "2026-01-02T03:04:05+00:00",
    "commit": "abc",
    "hardware": "a machine",
    "versions": {"vllm": "1"},
    "command": "patchbay bench overhead",
    "rows": [
        {
            "case": "8 clients",
            "patchbay": SERVER,
            "vllm": {**SERVER, "tokens_per_s": 60.0},
            "ratio": {"tokens_per_s": [2.0, 1.9, 2.1]},
        },
        {"case": "32 clients", "patchbay": SERVER},
    ],
}


def test_the_readme_has_the_numbers_of_the_newest_results(repository: Path) -> None:
    readme, results = (repository / "README.md").read_text(), repository / "bench" / "results"
    assert readme == with_numbers(readme, newest(results), newest(results / GPU))


@pytest.mark.parametrize("folder", [".", GPU])
def test_the_page_of_results_is_the_one_that_report_writes(repository: Path, folder: str) -> None:
    results = repository / "bench" / "results" / folder
    lines = newest(results)
    assert (results / "README.md").read_text() == tables(lines)
    assert [scenario for scenario in lines if not (results / f"{scenario}.png").exists()] == []


def test_a_headline_shows_both_servers_and_the_ratio_with_its_interval() -> None:
    shown = with_numbers(f"before\n{BEGIN}\nold\n{END}\nafter\n", {"overhead": LINE}, {})
    assert "| 120 | 60.0 | 2.00 [1.90, 2.10] | `overhead` |" in shown
    assert "| 120 |  |  | `overhead` |" in shown
    assert "old" not in shown
    assert shown.startswith("before\n")
    assert shown.endswith("after\n")
    assert with_numbers(shown, {"overhead": LINE}, {}) == shown


def test_what_was_measured_on_a_gpu_has_a_table_of_its_own() -> None:
    on_gpu = {"overhead": {**LINE, "hardware": "a processor, 16 cores, NVIDIA H200"}}
    shown = with_numbers(f"{BEGIN}\n{END}", {"overhead": LINE}, on_gpu)
    assert shown.count("| 120 | 60.0 | 2.00 [1.90, 2.10] | `overhead` |") == 2
    assert "On one NVIDIA H200, " in shown


def test_the_first_screen_has_the_same_ratio() -> None:
    line = {**LINE, "rows": [{**LINE["rows"][0], "case": "32 clients"}]}
    readme = f"With 64 on 8 slots, 9.99 times with one.\n{BEGIN}\n{END}"
    assert with_numbers(readme, {"overhead": line}, {}).startswith("With 64 on 8 slots, 2.00 times with one.\n")
    assert with_numbers(readme, {}, {}).startswith("With 64 on 8 slots, 9.99 times with one.\n")


def test_a_readme_without_the_place_for_numbers_is_refused() -> None:
    with pytest.raises(ValueError, match="not there"):
        with_numbers("# patchbay", {}, {})


def test_the_last_line_of_a_scenario_counts(tmp_path: Path) -> None:
    (tmp_path / "overhead.jsonl").write_text(json.dumps({**LINE, "commit": "old"}) + "\n" + json.dumps(LINE) + "\n")
    assert newest(tmp_path) == {"overhead": LINE}


def test_tables_say_where_each_number_comes_from() -> None:
    page = tables({"overhead": LINE})
    for fact in ("patchbay bench overhead", "2026-01-02", "abc", "a machine", "vllm 1", "p50 12.3"):
        assert fact in page


def test_a_picture_is_drawn_of_each_scenario(tmp_path: Path) -> None:
    draw({"overhead": LINE}, tmp_path)
    assert (tmp_path / "overhead.png").read_bytes().startswith(b"\x89PNG")
