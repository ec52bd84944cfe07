"""The files of a report: nothing in them is computed or run, and plots can be read without pictures."""

from __future__ import annotations

import csv
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from server.cli.eval_report import summarize, write_report

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>&amp;'
FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1"]


def written(folder: Path, answers: list[str], *references: str, status: str = "pass") -> Path:
    """Write a report of models that gave the same answers."""
    items = [{"messages": [{"role": "user", "content": answer}], "reference": answer} for answer in answers]
    score = 1.0 if status == "pass" else 0.0
    outputs = [
        {
            "datasource_item_id": place,
            "status": status,
            "sample": {"output": [{"content": answer}]},
            "results": [{"score": score}],
        }
        for place, answer in enumerate(answers)
    ]
    passed = len(answers) if status == "pass" else 0
    counts = {"passed": passed, "failed": 0, "errored": len(answers) - passed}
    run = {"model": "sql@1", "id": "run", "result_counts": counts, "per_model_usage": []}
    models = summarize(references, [run] * len(references), [outputs] * len(references))
    summary: dict[str, Any] = {"data": HOSTILE, "eval_id": HOSTILE, "grader": {"name": HOSTILE}, "items": len(items)}
    write_report(folder, {**summary, "models": models}, items, [outputs] * len(references))
    return folder


class Page(HTMLParser):
    """The elements of a page, with their attributes, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("formula", FORMULAS)
def test_no_cell_is_a_formula_to_a_spreadsheet(tmp_path: Path, formula: str) -> None:
    folder = written(tmp_path, [formula, "4"], formula)
    with (folder / "rows.csv").open(newline="", encoding="utf-8") as file:
        header, row, plain = csv.reader(file)
    assert header[3] == f"'{formula} answer"
    assert row == ["0", f"'{formula}", f"'{formula}", f"'{formula}", "1.0", "pass"]
    assert plain[1:4] == ["4", "4", "4"]


def test_a_page_shows_hostile_texts_and_runs_nothing(tmp_path: Path) -> None:
    page = Page(written(tmp_path, [HOSTILE], HOSTILE, f"other {HOSTILE}") / "report.html")
    assert {tag for tag, _ in page.elements} <= {
        "html", "meta", "title", "style", "h1", "h2", "p", "code", "div", "table", "tr", "th", "td",
        "svg", "rect", "text", "line", "circle",
    }  # fmt: skip
    assert not [
        name for _, attributes in page.elements for name in attributes if name.startswith(("on", "src", "href"))
    ]
    assert page.text.count(HOSTILE) > 8


def test_plots_have_a_description_and_their_numbers_stand_in_a_table(tmp_path: Path) -> None:
    page = Page(written(tmp_path, ["a"] * 12, "one", "two") / "report.html")
    plots = [attributes for tag, attributes in page.elements if tag == "svg" and attributes.get("role") == "img"]
    assert len(plots) == 3
    assert all("the numbers are in the table above" in str(plot["aria-label"]) for plot in plots)
    assert [name for name in ("wins", "ties", "losses") if page.text.count(name) < 2] == []


def test_a_model_without_a_score_is_not_drawn_as_one_with_the_score_0(tmp_path: Path) -> None:
    page = Page(written(tmp_path, ["a"], "one", status="error") / "report.html")
    assert "no score" in page.text
    assert "0.000" not in page.text
