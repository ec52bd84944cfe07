"""The report of ``patchbay eval``: the numbers of each model, and the files that show them."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any, Final

from server.cli.client import Json
from trainer.evals.comparison import Rate, compare

MAX_ROWS: Final = 200
"""Items that the page shows; ``rows.csv`` has all."""
_WIDTH, _BAR, _LABEL = 640, 26, 180
"""Of a plot, in pixels: its width, the height of a bar, and the width of the labels."""
_COLOURS: Final = {"wins": "#2a7f4f", "ties": "#c9c9c9", "losses": "#b3423a"}
_STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 980px; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } td, th { padding: .25rem .7rem; text-align: left;
vertical-align: top; border-bottom: 1px solid #ddd } td { white-space: pre-wrap; overflow-wrap: anywhere }
.fail { color: #b3423a } .pass { color: #2a7f4f } svg text { font: 12px system-ui, sans-serif }
code { background: #f4f4f4 }
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
    (folder / "report.json").write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    rows = [_row(index, item, [_by_item(each).get(index) for each in outputs]) for index, item in enumerate(items)]
    with (folder / "rows.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(_header([model["reference"] for model in summary["models"]]))
        table.writerows(rows)
    (folder / "report.html").write_text(_page(summary, rows))


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
        _bars([(model["reference"], model["mean_score"] or 0.0) for model in models]),
    ]
    if compared:
        first = escape(models[0]["reference"])
        parts += [
            f"<h2>Difference to {first}, with 95 % intervals</h2>",
            _intervals([(each["reference"], each["comparison"]) for each in compared]),
            f"<h2>Wins, ties and losses against {first}</h2>",
            _stacks([(each["reference"], each["comparison"]) for each in compared]),
        ]
    shown = f"the first {MAX_ROWS} of {len(rows)}; rows.csv has all" if len(rows) > MAX_ROWS else "all"
    parts += [f"<h2>Items</h2><p>{shown}</p>", _items_table(_header([each["reference"] for each in models]), rows)]
    head = f'<!doctype html><meta charset="utf-8"><title>{escape(summary["data"])}</title><style>{_STYLE}</style>'
    return "\n".join([head, *parts]) + "\n"


def _summary_table(models: Sequence[Json]) -> str:
    head = "<tr><th>model<th>version<th>score<th>passed<th>failed<th>errors<th>difference<th>95 % interval<th>tokens"
    rows = []
    for model in models:
        beside = model["comparison"]
        score = "" if model["mean_score"] is None else f"{model['mean_score']:.3f}"
        cells = [model["reference"], model["version"], score, model["passed"], model["failed"], model["errored"]]
        if beside is None:
            cells += ["", ""]
        else:
            low, high = beside["interval"]
            cells += [f"{beside['difference']:+.3f}", f"{low:+.3f} to {high:+.3f}"]
        rows.append("<tr>" + "".join(f"<td>{escape(str(cell))}" for cell in (*cells, model["tokens"])))
    return f"<table>{head}{''.join(rows)}</table>"


def _items_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    head = "".join(f"<th>{escape(name)}" for name in header)
    body = []
    for row in rows[:MAX_ROWS]:
        cells = (
            f'<td class="{cell}">{cell}' if cell in {"pass", "fail"} else f"<td>{escape(str(cell))}" for cell in row
        )
        body.append("<tr>" + "".join(cells))
    return f"<table><tr>{head}{''.join(body)}</table>"


def _plot(rows: int, parts: Iterator[str]) -> str:
    return f'<svg width="{_WIDTH}" height="{_BAR * rows + 24}">{"".join(parts)}</svg>'


def _label(number: int, text: str) -> str:
    return f'<text x="{_LABEL - 8}" y="{number * _BAR + 17}" text-anchor="end">{escape(text[:28])}</text>'


def _bars(values: Sequence[tuple[str, float]]) -> str:
    most = max([1.0, *(abs(value) for _, value in values)])

    def parts() -> Iterator[str]:
        for number, (name, value) in enumerate(values):
            width = max(0.0, value) / most * (_WIDTH - _LABEL - 60)
            yield _label(number, name)
            yield f'<rect x="{_LABEL}" y="{number * _BAR + 4}" width="{width:.1f}" height="{_BAR - 8}" fill="#1b6ca8"/>'
            yield f'<text x="{_LABEL + width + 6:.1f}" y="{number * _BAR + 17}">{value:.3f}</text>'

    return _plot(len(values), parts())


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

    return _plot(len(values), parts())


def _stacks(values: Sequence[tuple[str, Json]]) -> str:
    def parts() -> Iterator[str]:
        for number, (name, beside) in enumerate(values):
            x = float(_LABEL)
            yield _label(number, name)
            for kind, colour in _COLOURS.items():
                width, count = beside[kind]["rate"] * (_WIDTH - _LABEL), beside[kind]["count"]
                y = number * _BAR + 4
                yield (
                    f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_BAR - 8}" fill="{colour}">'
                    f"<title>{count} {kind}</title></rect>"
                )
                if count:
                    yield f'<text x="{x + 4:.1f}" y="{number * _BAR + 17}" fill="#fff">{count}</text>'
                x += width

    return _plot(len(values), parts())
