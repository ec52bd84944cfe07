"""The report of ``patchbay eval``: the numbers of each model, and the files that show them."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any, Final

from server.cli.client import Json
from server.csv_cells import csv_cell
from trainer.evals.comparison import Rate, compare

MAX_ROWS: Final = 200
"""Items that the page shows; ``rows.csv`` has all."""
_WIDTH, _BAR, _LABEL = 640, 26, 180
"""Of a plot, in pixels: its width, the height of a bar, and the width of the labels."""
_SHOWN_NAME: Final = 25
_COLOURS: Final = {"wins": ("#2a7f4f", "#fff"), "ties": ("#d5d5d5", "#222"), "losses": ("#b3423a", "#fff")}
"""Of a part, and of the number in it."""
_LEAST_WIDTH: Final = 36
"""Of a part that has its number in it."""
_STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 980px; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } td, th { padding: .25rem .7rem; text-align: left;
vertical-align: top; border-bottom: 1px solid #ddd } td { white-space: pre-wrap; overflow-wrap: anywhere }
.fail { color: #b3423a } .pass { color: #2a7f4f } svg text { font: 12px system-ui, sans-serif }
code { background: #f4f4f4 } .wide { overflow-x: auto } svg { max-width: 100%; height: auto }
"""


def summarize(references: Sequence[str], runs: Sequence[Json], outputs: Sequence[Sequence[Json]]) -> list[Json]:
    """Return the numbers of each model; all but the first are compared with the first.

    Items without a score, for this model or the first, are left out of means and comparisons, and counted as errors.
    """
    scores = [_scores(items) for items in outputs]
    models = []
    for number, (reference, run, own) in enumerate(zip(references, runs, scores, strict=True)):
        shared = sorted(own.keys() & scores[0].keys())
        comparison = None
        if number and shared:
            found = compare([own[item] for item in shared], [scores[0][item] for item in shared])
            rates = {name: _rate(getattr(found, name)) for name in ("wins", "ties", "losses")}
            interval = [found.interval.low, found.interval.high]
            comparison = {"items": found.items, "difference": found.difference, "interval": interval, **rates}
        counts = run["result_counts"]
        judged = counts["passed"] + counts["failed"]
        models.append(
            {
                "reference": reference,
                "version": run["model"],
                "run_id": run["id"],
                "mean_score": sum(own.values()) / len(own) if own else None,
                "pass_rate": counts["passed"] / judged if judged else None,
                **{name: counts[name] for name in ("passed", "failed", "errored")},
                "tokens": sum(usage["total_tokens"] for usage in run["per_model_usage"]),
                "per_model_usage": run["per_model_usage"],
                "comparison": comparison,
            }
        )
    return models


def write_report(folder: Path, summary: Json, items: Sequence[Json], outputs: Sequence[Sequence[Json]]) -> None:
    """Write ``report.html``, ``report.json`` and ``rows.csv`` to ``folder``, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    rows = [_row(index, item, [_by_item(each).get(index) for each in outputs]) for index, item in enumerate(items)]
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        header = _header([model["reference"] for model in summary["models"]])
        csv.writer(file).writerows([csv_cell(cell) for cell in row] for row in [header, *rows])
    (folder / "report.html").write_text(_page(summary, rows), encoding="utf-8")


def _scores(items: Sequence[Json]) -> dict[int, float]:
    return {item["datasource_item_id"]: item["results"][0]["score"] for item in items if item["status"] != "error"}


def _rate(rate: Rate) -> Json:
    return {"count": rate.count, "rate": rate.value, "interval": list(asdict(rate.interval).values())}


def _by_item(items: Sequence[Json]) -> dict[int, Json]:
    return {item["datasource_item_id"]: item for item in items}


def _header(references: Sequence[str]) -> list[str]:
    return ["item", "question", "reference"] + [
        f"{name} {part}" for name in references for part in ("answer", "score", "status")
    ]


def _row(index: int, item: Mapping[str, Any], outputs: Sequence[Json | None]) -> list[Any]:
    last = item["messages"][-1]
    question = last.get("content") if isinstance(last, dict) else last
    row = [index, question if isinstance(question, str) else json.dumps(question), item.get("reference", "")]
    for output in outputs:
        answer = "".join(message["content"] for message in output["sample"]["output"]) if output else ""
        score = output["results"][0]["score"] if output and output["results"] else ""
        row += [answer, score, output["status"] if output else ""]
    return row


def _page(summary: Json, rows: Sequence[Sequence[Any]]) -> str:
    models = summary["models"]
    compared = [model for model in models if model["comparison"] is not None]
    parts = [
        f"<h1>{escape(summary['data'])}</h1>",
        f"<p>{summary['items']} items, eval <code>{escape(summary['eval_id'])}</code>, grader "
        f"<code>{escape(json.dumps(summary['grader'], ensure_ascii=False))}</code></p>",
        _summary_table(models),
        "<h2>Mean score</h2>",
        _bars([(model["reference"], model["mean_score"]) for model in models]),
    ]
    if compared:
        first = escape(models[0]["reference"])
        parts += [
            f"<h2>Difference to {first}, with 95 % intervals</h2>",
            _intervals([(each["reference"], each["comparison"]) for each in compared]),
            f"<h2>Wins, ties and losses against {first}</h2>",
            "<p>" + ", ".join(f"{_swatch(kind)} {kind}" for kind in _COLOURS) + "</p>",
            _stacks([(each["reference"], each["comparison"]) for each in compared]),
        ]
    shown = f"the first {MAX_ROWS} of {len(rows)}; rows.csv has all" if len(rows) > MAX_ROWS else "all"
    parts += [f"<h2>Items</h2><p>{shown}</p>", _items_table(_header([each["reference"] for each in models]), rows)]
    head = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(summary['data'])}</title><style>{_STYLE}</style>"
    )
    return "\n".join([head, *parts]) + "\n"


def _summary_table(models: Sequence[Json]) -> str:
    names = (
        "model",
        "version",
        "score",
        "passed",
        "failed",
        "errors",
        "difference",
        "95 % interval",
        *_COLOURS,
        "tokens",
    )
    head = "<tr>" + "".join(f'<th scope="col">{name}' for name in names)
    rows = []
    for model in models:
        beside = model["comparison"]
        score = "" if model["mean_score"] is None else f"{model['mean_score']:.3f}"
        cells = [model["reference"], model["version"], score, model["passed"], model["failed"], model["errored"]]
        if beside is None:
            cells += [""] * (2 + len(_COLOURS))
        else:
            low, high = beside["interval"]
            cells += [f"{beside['difference']:+.3f}", f"{low:+.3f} to {high:+.3f}"]
            cells += [beside[kind]["count"] for kind in _COLOURS]
        rows.append("<tr>" + "".join(f"<td>{escape(str(cell))}" for cell in (*cells, model["tokens"])))
    return f'<div class="wide"><table>{head}{"".join(rows)}</table></div>'


def _items_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    head = "".join(f'<th scope="col">{escape(name)}' for name in header)
    body = []
    for row in rows[:MAX_ROWS]:
        cells = (
            f'<td class="{cell}">{cell}' if cell in {"pass", "fail"} else f"<td>{escape(str(cell))}" for cell in row
        )
        body.append("<tr>" + "".join(cells))
    return f'<div class="wide"><table><tr>{head}{"".join(body)}</table></div>'


def _plot(rows: int, described: str, parts: Iterator[str]) -> str:
    """Return a plot; ``described`` is read out where pictures are not shown, and the table has its numbers."""
    width, height = _WIDTH, _BAR * rows + 24
    label = escape(f"{described}; the numbers are in the table above")
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    return f'<svg {size} role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _label(number: int, text: str) -> str:
    shown = text if len(text) <= _SHOWN_NAME else f"{text[: _SHOWN_NAME - 1]}…"
    place = f'x="{_LABEL - 8}" y="{number * _BAR + 17}" text-anchor="end"'
    return f"<text {place}>{escape(shown)}<title>{escape(text)}</title></text>"


def _swatch(kind: str) -> str:
    fill = _COLOURS[kind][0]
    return f'<svg width="12" height="12" aria-hidden="true"><rect width="12" height="12" fill="{fill}"/></svg>'


def _bars(values: Sequence[tuple[str, float | None]]) -> str:
    most = max([1.0, *(abs(value or 0.0) for _, value in values)])

    def parts() -> Iterator[str]:
        for number, (name, value) in enumerate(values):
            width = max(0.0, value or 0.0) / most * (_WIDTH - _LABEL - 60)
            shown = "no score" if value is None else f"{value:.3f}"
            yield _label(number, name)
            yield f'<rect x="{_LABEL}" y="{number * _BAR + 4}" width="{width:.1f}" height="{_BAR - 8}" fill="#1b6ca8"/>'
            yield f'<text x="{_LABEL + width + 6:.1f}" y="{number * _BAR + 17}">{shown}</text>'

    return _plot(len(values), "Mean score of each model", parts())


def _intervals(values: Sequence[tuple[str, Json]]) -> str:
    most = max(abs(end) for _, beside in values for end in beside["interval"]) or 1.0
    middle, half = _LABEL + (_WIDTH - _LABEL) / 2, (_WIDTH - _LABEL) / 2 - 12

    def parts() -> Iterator[str]:
        yield f'<line x1="{middle}" x2="{middle}" y1="0" y2="{_BAR * len(values)}" stroke="#888" stroke-dasharray="3"/>'
        for number, (name, beside) in enumerate(values):
            low, high, at = (middle + value / most * half for value in (*beside["interval"], beside["difference"]))
            y = number * _BAR + 13
            yield _label(number, name)
            yield f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}" stroke="#1b6ca8" stroke-width="3"/>'
            yield f'<circle cx="{at:.1f}" cy="{y}" r="5" fill="#1b6ca8"/>'
        y = _BAR * len(values) + 16
        yield f'<text x="{_LABEL}" y="{y}">{-most:+.2f}</text><text x="{middle - 4}" y="{y}">0</text>'
        yield f'<text x="{_WIDTH}" y="{y}" text-anchor="end">{most:+.2f}</text>'

    return _plot(len(values), "Difference of mean scores, with intervals", parts())


def _stacks(values: Sequence[tuple[str, Json]]) -> str:
    def parts() -> Iterator[str]:
        for number, (name, beside) in enumerate(values):
            x = float(_LABEL)
            yield _label(number, name)
            for kind, (fill, ink) in _COLOURS.items():
                width, count = beside[kind]["rate"] * (_WIDTH - _LABEL), beside[kind]["count"]
                y = number * _BAR + 4
                yield (
                    f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_BAR - 8}" fill="{fill}">'
                    f"<title>{count} {kind}</title></rect>"
                )
                if width >= _LEAST_WIDTH:
                    yield f'<text x="{x + 4:.1f}" y="{number * _BAR + 17}" fill="{ink}">{count}</text>'
                x += width

    return _plot(len(values), "Items won, tied and lost", parts())
