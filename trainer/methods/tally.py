"""Token counts of a training file, a preview of its mask, and the lines with faults that only the renderer finds."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from trainer.data.faults import FaultKind, LineFault
from trainer.data.file_report import FileReport
from trainer.methods import data_sets
from trainer.methods.rendering import Renderer
from trainer.run_spec import RunSpec

PREVIEWED: Final = 3
"""Sequences whose mask is shown."""
PREVIEWED_RUNS: Final = 50
"""Runs of trained or untrained text shown of each."""
PREVIEWED_CHARACTERS: Final = 2000
"""Characters shown of each run."""
MOST_LINES: Final = 1000
"""Line numbers listed of each kind; all are counted."""
_RENDERED: Final = frozenset({FaultKind.TEMPLATE_REFUSES, FaultKind.TEMPLATE_REWRITES, FaultKind.TOO_MANY_TOKENS})


@dataclass(slots=True)
class Lines:
    """Line numbers: the first ``MOST_LINES``, and how many there are."""

    first: list[int] = field(default_factory=list)
    count: int = 0

    def add(self, line: int) -> None:
        """Add a line."""
        self.count += 1
        if len(self.first) < MOST_LINES:
            self.first.append(line)


@dataclass(slots=True)
class Tally:
    """The tokens of a file."""

    sequences: int = 0
    tokens: int = 0
    """Tokens that go through the model in one epoch."""
    trained_tokens: int = 0
    longest: int = 0
    without_stop: Lines = field(default_factory=Lines)
    """Lines with a trained answer that does not end in a token that the server stops on: EOS would not be learned."""
    without_loss: Lines = field(default_factory=Lines)
    """Lines without a trained token."""
    too_long: Lines = field(default_factory=Lines)
    """Lines with more tokens than fit; they are refused, or left out, never cut."""
    preview: list[list[tuple[str, bool]]] = field(default_factory=list)
    _lines: array[int] = field(default_factory=lambda: array("q"))
    _tokens: array[int] = field(default_factory=lambda: array("q"))
    """For each of ``_lines``, the tokens of its longest sequence."""

    def add(self, line: int, made: list[data_sets.Columns], renderer: Renderer) -> None:
        """Count the sequences of one row."""
        for sequence in made:
            answer = data_sets.answer(sequence)
            self.sequences += 1
            self.tokens += sum(data_sets.lengths(sequence))
            self.trained_tokens += len(answer)
            if not answer:
                self.without_loss.add(line)
            elif not renderer.stops(answer):
                self.without_stop.add(line)
            if len(self.preview) < PREVIEWED:
                self.preview.append(_preview(data_sets.segments(sequence, renderer)))
        longest = max(map(data_sets.tokens, made))
        self.longest = max(self.longest, longest)
        self._lines.append(line)
        self._tokens.append(longest)

    def longest_lines(self, rows: int, tokens: int = 0) -> set[int]:
        """Return the lines with the longest rows: ``rows`` of them, more until they have ``tokens``; all if too few."""
        chosen: set[int] = set()
        gathered = 0
        for index in sorted(range(len(self._lines)), key=self._tokens.__getitem__, reverse=True):
            if len(chosen) >= rows and gathered >= tokens:
                break
            chosen.add(self._lines[index])
            gathered += self._tokens[index]
        return chosen

    def to_json(self) -> Mapping[str, Any]:
        """Return the counts as JSON values.

        ``without_stop``, ``without_loss`` and ``too_long`` list the first line numbers, ``lines`` counts all of them;
        ``preview`` is a list of [text, is trained] for each of the first sequences.
        """
        listed = {name: getattr(self, name) for name in ("without_stop", "without_loss", "too_long")}
        return {
            "sequences": self.sequences,
            "tokens": self.tokens,
            "trained_tokens": self.trained_tokens,
            "longest": self.longest,
            **{name: lines.first for name, lines in listed.items()},
            "lines": {name: lines.count for name, lines in listed.items()},
            "preview": self.preview,
        }


def tally(path: Path, spec: RunSpec, renderer: Renderer, report: FileReport) -> Tally:
    """Count a file's tokens, and add to its ``report`` the faults that only the renderer finds, in the order of lines.

    Raises:
        OSError: the file cannot be read.
    """
    counted = Tally()
    for line, made, faults in data_sets.read(path, renderer, data_sets.limit(spec, renderer)):
        if made:
            counted.add(line, made, renderer)
        found = [fault for fault in faults if fault.kind in _RENDERED]
        is_long = _is_long(found)
        if is_long:
            counted.too_long.add(line)
        if found and not (spec.drop_long and is_long):
            report.rows -= 1
            for fault in found:
                report.add(fault)
    if not counted.sequences and report.ok:
        report.add(LineFault(None, FaultKind.EMPTY_FILE, "", "no row that is short enough", "at least one"))
    report.faults.sort(key=lambda fault: (fault.line is None, fault.line or 0))
    return counted


def _is_long(faults: Iterable[LineFault]) -> bool:
    return any(fault.kind is FaultKind.TOO_MANY_TOKENS for fault in faults)


def _preview(segments: list[tuple[str, bool]]) -> list[tuple[str, bool]]:
    return [(_shortened(text), trained) for text, trained in segments[:PREVIEWED_RUNS]]


def _shortened(text: str) -> str:
    half = PREVIEWED_CHARACTERS // 2
    return text if len(text) <= PREVIEWED_CHARACTERS else f"{text[:half]} … {text[-half:]}"
