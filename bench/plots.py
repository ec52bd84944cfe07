"""A plot for each scenario: one panel per number, one bar per case and server."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure

from bench.record import Row

COLOURS: Final = {"patchbay": "#1b6ca8", "vllm": "#b0b0b0", "keyless": "#b0b0b0"}
PANELS: Final = (
    ("tokens/s", "tokens_per_s", ""),
    ("first token p50, ms", "first_ms", "p50"),
    ("first token p99, ms", "first_ms", "p99"),
    ("between tokens p50, ms", "between_ms", "p50"),
    ("between tokens p99, ms", "between_ms", "p99"),
    ("p50, ms", "ms", "p50"),
    ("p99, ms", "ms", "p99"),
)
SPREAD: Final = 20
"""From this ratio of the largest to the smallest bar on, the axis is logarithmic."""


def draw(lines: Mapping[str, Row], folder: Path) -> None:
    """Write ``folder/scenario.png`` for each scenario."""
    for scenario, line in lines.items():
        rows: list[Row] = line["rows"]
        panels = [panel for panel in PANELS if any(_values(rows, "patchbay", *panel[1:]))]
        figure = Figure(figsize=(4 * len(panels), 1 + 0.5 * len(rows)), layout="constrained")
        for axes, (title, name, of) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
            _panel(axes, title, rows, name, of)
            if axes.get_subplotspec().colspan.start > 0:
                axes.set_yticklabels([])
        figure.suptitle(f"{scenario}: {line['hardware']}, commit {line['commit']}", fontsize=8)
        figure.savefig(folder / f"{scenario}.png", dpi=110, metadata={"Software": None})


def _panel(axes: Any, title: str, rows: Sequence[Row], name: str, of: str) -> None:
    kinds = [kind for kind in COLOURS if any(kind in row for row in rows)]
    places = np.arange(len(rows))
    height = 0.8 / len(kinds)
    seen = []
    for number, kind in enumerate(kinds):
        values = [value or 0.0 for value in _values(rows, kind, name, of)]
        bars = axes.barh(places + number * height, values, height, color=COLOURS[kind], label=kind)
        axes.bar_label(bars, [f"{value:,.4g}" if value else "" for value in values], fontsize=6, padding=2)
        seen += [value for value in values if value]
    if seen and max(seen) > SPREAD * min(seen):
        axes.set_xscale("log")
    axes.set_title(title, fontsize=8)
    axes.set_yticks(places + 0.4 - height / 2, [row["case"] for row in rows], fontsize=7)
    axes.tick_params(axis="x", labelsize=6)
    axes.margins(x=0.2)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=6, frameon=False)


def _values(rows: Sequence[Row], kind: str, name: str, of: str) -> Iterator[float | None]:
    for row in rows:
        value = row.get(kind, {}).get(name)
        yield value.get(of) if isinstance(value, dict) else value
