"""Prints a preflight's report: verdict, faults, warnings, tokens, the mask, time and memory of the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from server.cli.output import (
    format_bytes,
    format_duration,
    show_fields,
    show_heading,
    show_marked,
    show_table,
    show_text,
)

if TYPE_CHECKING:
    from trainer.run_spec import RunSpec

SHOWN_FAULTS: Final = 50
SHOWN_LINES: Final = 5
SHOWN_CHARACTERS: Final = 400
"""Of one stretch of the mask's preview."""

Report = Mapping[str, Any]
"""See ``trainer.child.run_preflight``."""

_COMPARING: Final = frozenset({"duplicate_row", "contradiction", "leakage"})
"""Kinds of warnings whose messages name another row."""
_COUNTS: Final = {
    "sequences": "sequences",
    "tokens": "tokens, prompts included",
    "trained_tokens": "trained tokens",
    "longest": "longest row",
    "taught_tokens": "tokens behind the prompt",
}
_LISTED: Final = {
    "too_long": "too long",
    "without_loss": "without any trained token",
    "without_stop": "answers without end-of-turn",
}


def show_verdict(spec: RunSpec, report: Report, cost_per_hour: float | None) -> None:
    """Print the preflight's report on ``spec``; ``cost_per_hour`` is that of this machine."""
    files = list(_files(spec, report))
    show_text(_verdict(spec, report, files), style="bold green" if report["ok"] else "bold red")
    for name, found in files:
        _show_faults(name, found)
    for name, found in files:
        _show_warnings(name, found)
    if files:
        _show_counts(files)
        _show_preview(files[0][1]["tokens"]["preview"])
    if report["hyperparameters"] is not None:
        show_heading("Hyperparameters")
        show_fields({name.replace("_", " "): _short(value) for name, value in report["hyperparameters"].items()})
    if report["estimate"] is not None and report["estimate"]["fits"]:
        show_heading("Here it takes about")
        show_fields(_estimate(report["estimate"], cost_per_hour))


def _files(spec: RunSpec, report: Report) -> Iterator[tuple[str, Report]]:
    for path, found in ((spec.training_file, report["training"]), (spec.validation_file, report["validation"])):
        if path is not None and found is not None:
            yield str(path), found


def _verdict(spec: RunSpec, report: Report, files: Sequence[tuple[str, Report]]) -> str:
    if report["ok"]:
        return f"{spec.training_file} is fit to train: {spec.method}, {files[0][1]['rows']} rows"
    faulty = [f"{_counted(len(found['faults']), 'fault')} in {name}" for name, found in files if found["faults"]]
    return f"refused: {', '.join(faulty) or report['reason']}"


def _show_faults(name: str, found: Report) -> None:
    for fault in found["faults"][:SHOWN_FAULTS]:
        place = name if fault["line"] is None else f"{name}:{fault['line']}"
        where = f" {fault['where']}" if fault["where"] else ""
        show_text(f"{place}{where}: found {fault['found']}; needed {fault['needed']}")
    if (more := len(found["faults"]) - SHOWN_FAULTS) > 0:
        show_text(f"and {more} more (--json has all)")


def _show_warnings(name: str, found: Report) -> None:
    """Print one line for each warning of the file, and for each kind of warnings that compare a row with another."""
    groups: dict[tuple[str, str], list[Report]] = {}
    for warning in found["warnings"]:
        message = "" if warning["kind"] in _COMPARING else warning["message"]
        groups.setdefault((warning["kind"], message), []).append(warning)
    for (kind, _), warnings in groups.items():
        place = f"{name}{_rows_of(warnings)}"
        show_text(f"{place}: warning, {kind.replace('_', ' ')}: {warnings[0]['message']}", style="yellow")
    if found["left_out"]:
        show_text(f"{name}: {found['left_out']:,} further faults and warnings were only counted")


def _rows_of(warnings: Sequence[Report]) -> str:
    """Return the rows of ``warnings`` as text behind the file's name."""
    lines = [warning["line"] for warning in warnings if warning["line"] is not None]
    count = sum(warning.get("rows", 1) for warning in warnings)
    if not lines:
        return ""
    if count == 1:
        return f":{lines[0]}"
    return f", {_lines(lines, count)}" if count == len(lines) else f", {count:,} rows from line {lines[0]} on"


def _show_counts(files: Sequence[tuple[str, Report]]) -> None:
    tallies = [found["tokens"] for _, found in files]
    rows = [["format", *(str(found["format"]) for _, found in files)]]
    rows += [["rows", *(f"{found['rows']:,}" for _, found in files)]]
    counted = {key: words for key, words in _COUNTS.items() if key != "taught_tokens" or tallies[0].get(key)}
    rows += [[words, *(f"{tally[key]:,}" for tally in tallies)] for key, words in counted.items()]
    rows += [
        [words, *(_listed(tally[key], tally["lines"][key]) for tally in tallies)] for key, words in _LISTED.items()
    ]
    show_heading("Tokens")
    show_table(["", *(name for name, _ in files)], rows)


def _listed(lines: Sequence[int], count: int) -> str:
    return f"{count:,} ({_lines(lines, count)})" if count else "0"


def _lines(lines: Sequence[int], count: int) -> str:
    """Return the first of ``count`` line numbers as text."""
    first = ", ".join(map(str, lines[:SHOWN_LINES]))
    more = f" and {count - SHOWN_LINES:,} more" if count > SHOWN_LINES else ""
    return f"line{'s'[: count > 1]} {first}{more}"


def _show_preview(rows: Sequence[Sequence[tuple[str, bool]]]) -> None:
    if rows:
        show_heading("What is trained")
    for row in rows:
        show_marked((_cut(text), is_trained) for text, is_trained in row)


def _cut(text: str) -> str:
    """Return ``text``, or the two ends of a long one."""
    half = SHOWN_CHARACTERS // 2
    left_out = len(text) - SHOWN_CHARACTERS
    return text if left_out <= 0 else f"{text[:half]} […{left_out:,} characters…] {text[-half:]}"


def _estimate(estimate: Report, cost_per_hour: float | None) -> dict[str, object]:
    fields: dict[str, object] = {
        "steps": f"{estimate['steps']:,}",
        "time": format_duration(estimate["seconds"]),
        "speed": f"{estimate['tokens_per_second']:,.0f} tokens/s",
        "a million tokens": format_duration(estimate["seconds_per_million_tokens"]),
        "peak memory": format_bytes(estimate["peak_memory_bytes"]),
    }
    if "trained_parameters" in estimate:
        fields["trained"] = f"{estimate['trained_parameters']:,} numbers of the base model"
        fields["weights, gradients, optimizer"] = format_bytes(estimate["state_bytes"])
        fields["disk"] = format_bytes(estimate["disk_bytes"])
    if cost_per_hour is not None:
        run, million = (estimate[key] / 3600 * cost_per_hour for key in ("seconds", "seconds_per_million_tokens"))
        fields["cost"] = f"{_short(run)} the run, {_short(million)} a million tokens"
    return fields


def _short(value: object) -> object:
    """Return a number with three significant digits or two decimals."""
    if not isinstance(value, float):
        return value
    return f"{value:.2f}" if value >= 1 else f"{value:.3g}"


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s'[: count > 1]}"
