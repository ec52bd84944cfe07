"""`patchbay bench report`: the newest results as Markdown tables and plots, and README's numbers.

``bench/results/README.md`` holds every row of the newest line of each scenario, with its machine, versions, commit and
command; ``bench/results/gpu`` holds the same for a machine with a GPU. README shows a selection between two comments; a
test compares.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import typer

from bench.interval import Interval
from bench.options import RESULTS
from bench.record import Row
from bench.target import KINDS

GPU: Final = "gpu"
"""The folder of results from a machine with a GPU."""
BEGIN: Final = "<!-- made by `patchbay bench report` -->"
END: Final = "<!-- until here -->"
FIRST_SCREEN: Final = (
    (re.compile(r"(?<=it writes )[\d.]+(?= times stock)"), "many", "64 adapters, 8 slots"),
    (re.compile(r"(?<=8 slots, )[\d.]+(?= times with one)"), "overhead", "32 clients"),
)
"""Ratios of tokens per second that README's first screen names."""
TITLES: Final = {
    "tokens_per_s": "tokens/s",
    "first_ms": "first token, ms",
    "between_ms": "between tokens, ms",
    "ms": "ms",
    "health_ms": "/health meanwhile, ms",
}


class Headline(NamedTuple):
    """A number of README's table: the statistic ``of`` (p50, p99; empty: the number itself) of ``name`` in ``case``."""

    scenario: str
    case: str
    name: str
    of: str
    label: str


HEADLINES: Final = (
    Headline("overhead", "1 client", "first_ms", "p50", "first token, one adapter, 1 client, p50"),
    Headline("overhead", "8 clients", "tokens_per_s", "", "tokens a second, one adapter, 8 clients"),
    Headline("overhead", "32 clients", "tokens_per_s", "", "tokens a second, one adapter, 32 clients"),
    Headline(
        "many", "64 adapters, 8 slots", "tokens_per_s", "", "tokens a second, 64 adapters (Zipf), 8 slots, 32 clients"
    ),
    Headline("many", "32 adapters, 8 slots", "tokens_per_s", "", "tokens a second, 32 adapters (Zipf), 8 slots"),
    Headline("many", "32 adapters, 8 slots", "between_ms", "p99", "between tokens, 32 adapters (Zipf), 8 slots, p99"),
    Headline("cold", "cold visitors", "first_ms", "p50", "first token of a cold rank-64 adapter, p50"),
    Headline("cold", "neighbours of cold visitors", "between_ms", "p99", "between tokens of its neighbours, p99"),
    Headline("fair", "trickle", "first_ms", "p99", "first token of a quiet adapter beside two flooded ones, p99"),
    Headline(
        "publish",
        "sent → first right token",
        "ms",
        "p50",
        "new weights sent, checked, tried and stored (stock: told of a directory) → first right token, p50",
    ),
    Headline("training", "last step → first right token", "ms", "p50", "last training step → first right token, p50"),
    Headline("swap", "move sent → first token of the new version", "ms", "p50", "alias moved → first token of it, p50"),
    Headline("start", "process start → first token", "ms", "p50", "process start → first token"),
    Headline("start", "engine killed → first token", "ms", "p50", "engine killed with -9 → first token"),
    Headline("registry", "page of 100, 10000 adapters", "ms", "p50", "page of 100 out of 10,000 adapters, p50"),
)


def report(
    *,
    results: Annotated[Path, typer.Option(help="Directory of the scenarios' results.")] = RESULTS,
    readme: Annotated[Path, typer.Option(help="README whose numbers are updated.")] = Path("README.md"),
) -> None:
    """Write tables and plots of the newest results, and update README's numbers."""
    from bench.plots import draw

    for folder in (results, results / GPU):
        lines = newest(folder)
        (folder / "README.md").write_text(tables(lines))
        draw(lines, folder)
        print(f"{folder}: {', '.join(lines)}")
    readme.write_text(with_numbers(readme.read_text(), newest(results), newest(results / GPU)))


def newest(results: Path) -> dict[str, Row]:
    """Return the last line of each scenario, by the scenario's name.

    Lines without rows are left out, and comparisons with a server of our own without keys: the log has those.
    """
    lines = {path.stem: map(json.loads, path.read_text().splitlines()) for path in sorted(results.glob("*.jsonl"))}
    shown = {scenario: [line for line in of if "rows" in line and _is_shown(line)] for scenario, of in lines.items()}
    return {scenario: of[-1] for scenario, of in shown.items() if of}


def _is_shown(line: Row) -> bool:
    return "--peer keyless" not in line.get("command", "")


def with_numbers(readme: str, lines: Mapping[str, Row], on_gpu: Mapping[str, Row]) -> str:
    """Return ``readme`` with the numbers of ``lines`` and of ``on_gpu``.

    Raises:
        ValueError: one of the two comments is missing.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{BEGIN} and {END} are not there")
    table = "\n".join([*headline_table(lines), *_gpu_table(on_gpu)])
    for number, scenario, case in FIRST_SCREEN:
        for row in lines.get(scenario, {}).get("rows", ()):
            if row["case"] == case and "ratio" in row:
                before = number.sub(f"{row['ratio']['tokens_per_s'][0]:.2f}", before)
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{after}"


def headline_table(lines: Mapping[str, Row]) -> Iterator[str]:
    """Yield the lines of README's table."""
    yield "| what | patchbay | stock vLLM | ours ÷ theirs | scenario |"
    yield "|---|---|---|---|---|"
    for headline, row in _found(lines):
        unit = "" if headline.name == "tokens_per_s" else " ms"
        ours, theirs = (_value(row.get(kind), headline) for kind in ("patchbay", "vllm"))
        ratio_name = "_".join(filter(None, (headline.name.removesuffix("ms").rstrip("_"), headline.of)))
        at = row.get("ratio", {}).get(ratio_name)
        cells = (
            headline.label,
            f"{_number(ours)}{unit}",
            "" if theirs is None else f"{_number(theirs)}{unit}",
            "" if at is None else str(Interval(*at)),
            f"`{headline.scenario}`",
        )
        yield f"| {' | '.join(cells)} |"


def _gpu_table(lines: Mapping[str, Row]) -> Iterator[str]:
    if (line := next(iter(lines.values()), None)) is not None:
        gpu = line["hardware"].rpartition(", ")[2]
        yield f"\nOn one {gpu}, a base of 8 billion parameters ([all numbers](bench/results/{GPU}/README.md)):\n"
        yield from headline_table(lines)


def _found(lines: Mapping[str, Row]) -> Iterator[tuple[Headline, Row]]:
    for headline in HEADLINES:
        for row in lines.get(headline.scenario, {}).get("rows", ()):
            if row["case"] == headline.case and _value(row.get("patchbay"), headline) is not None:
                yield headline, row


def _value(numbers: Row | None, headline: Headline) -> float | None:
    value = (numbers or {}).get(headline.name)
    found = value.get(headline.of) if isinstance(value, dict) else value
    return None if found is None else float(found)


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def tables(lines: Mapping[str, Row]) -> str:
    """Return the page of all results, as Markdown."""
    head = "# Results\n\nThe newest of each scenario. Made by `patchbay bench report`; ratios have 95 % intervals.\n"
    return "\n".join([head, *(line for scenario in lines for line in _section(scenario, lines[scenario]))])


def _section(scenario: str, line: Row) -> Iterator[str]:
    parts = [line["at"][:10], f"commit {line['commit']}", line["hardware"]]
    parts += [f"{name} {number}" for name, number in line["versions"].items()]
    yield f"## {scenario}\n"
    yield f"`{line['command']}`; {', '.join(parts)}\n"
    yield f"![{scenario}]({scenario}.png)\n"
    names = [name for name in TITLES if any(name in row["patchbay"] for row in line["rows"])]
    yield "| case | server | " + " | ".join(TITLES[name] for name in names) + " |"
    yield "|---|---|" + "---|" * len(names)
    for row in line["rows"]:
        for kind in KINDS:
            if kind in row:
                yield f"| {row['case']} | {kind} | " + " | ".join(_cell(row[kind].get(name)) for name in names) + " |"
        if "ratio" in row:
            at = ", ".join(f"{name} {Interval(*value)}" for name, value in row["ratio"].items())
            yield f"| | ours ÷ theirs | {at} |" + " |" * (len(names) - 1)
    yield ""


def _cell(value: object) -> str:
    if not isinstance(value, dict):
        return "" if value is None else str(value)
    if "p50" not in value:
        return "none"
    return f"p50 {_number(value['p50'])}, p99 {_number(value['p99'])}, max {_number(value['max'])} (n {value['n']})"
