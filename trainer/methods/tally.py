"""Token counts of a training file, a preview of its mask, and the lines with faults that only the renderer finds."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
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
_LISTED: Final = ("without_stop", "without_loss", "too_long")
_RENDERED: Final = frozenset({FaultKind.TEMPLATE_REFUSES, FaultKind.TEMPLATE_REWRITES, FaultKind.TOO_MANY_TOKENS})


@dataclass(slots=True)
class Tally:
    """The tokens of a file, and the first line numbers of three kinds of rows."""

    sequences: int = 0
    tokens: int = 0
    """Tokens that go through the model in one epoch."""
    trained_tokens: int = 0
    longest: int = 0
    without_stop: list[int] = field(default_factory=list)
    """Lines with a trained answer that does not end in a token that the server stops on: EOS would not be learned."""
    without_loss: list[int] = field(default_factory=list)
    """Lines without a trained token."""
    too_long: list[int] = field(default_factory=list)
    """Lines with more tokens than fit; they are refused, or left out, never cut."""
    lines: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_LISTED, 0))
    """How many lines each of the three lists stands for."""
    preview: list[list[tuple[str, bool]]] = field(default_factory=list)
    """(text, whether it is trained) for each of the first sequences."""
    _lines: array[int] = field(default_factory=lambda: array("q"))
    _tokens: array[int] = field(default_factory=lambda: array("q"))
    """For each of ``_lines``, the tokens of its longest sequence."""

    def add(self, line: int, made: list[data_sets.Columns], renderer: Renderer) -> None:
        for sequence in made:
            answer = data_sets.answer(sequence)
            self.sequences += 1
            self.tokens += sum(data_sets.lengths(sequence))
            self.trained_tokens += len(answer)
            if not answer:
                self.list_line("without_loss", line)
            elif not renderer.stops(answer):
                self.list_line("without_stop", line)
            if len(self.preview) < PREVIEWED:
                segments = data_sets.segments(sequence, renderer)[:PREVIEWED_RUNS]
                self.preview.append([(_shortened(text), trained) for text, trained in segments])
        longest = max(map(data_sets.tokens, made))
        self.longest = max(self.longest, longest)
        self._lines.append(line)
        self._tokens.append(longest)

    def list_line(self, kind: str, line: int) -> None:
        """Count a line of a ``kind`` in ``_LISTED``, and list it if it is among the first ``MOST_LINES``."""
        self.lines[kind] += 1
        if self.lines[kind] <= MOST_LINES:
            getattr(self, kind).append(line)

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
        """Return the public fields as JSON values."""
        return {each.name: getattr(self, each.name) for each in fields(self) if not each.name.startswith("_")}


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
        is_long = any(fault.kind is FaultKind.TOO_MANY_TOKENS for fault in found)
        if is_long:
            counted.list_line("too_long", line)
        if found and not (spec.drop_long and is_long):
            report.rows -= 1
            for fault in found:
                report.add(fault)
    if not counted.sequences and report.ok:
        report.add(LineFault(None, FaultKind.EMPTY_FILE, "", "no row that is short enough", "at least one"))
    report.faults.sort(key=lambda fault: (fault.line is None, fault.line or 0))
    return counted


def _shortened(text: str) -> str:
    half = PREVIEWED_CHARACTERS // 2
    return text if len(text) <= PREVIEWED_CHARACTERS else f"{text[:half]} … {text[-half:]}"
