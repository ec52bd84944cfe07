"""Token counts of a training file, a preview of its mask, and the lines with faults that only the renderer finds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from trainer.data.faults import FaultKind, LineFault
from trainer.data.file_report import FileReport
from trainer.rendering import columns
from trainer.rendering.row_renderer import RowRenderer
from trainer.rendering.token_rows import Columns, lengths, tokens
from trainer.training_method import TrainingMethod

PREVIEWED: Final = 3
"""Sequences whose mask is shown."""
PREVIEWED_RUNS: Final = 50
"""Runs of trained or untrained text shown of each."""
PREVIEWED_CHARACTERS: Final = 2000
"""Characters shown of each run."""
MOST_LINES: Final = 1000
"""Line numbers listed of each kind; all are counted."""
_LISTED: Final = ("without_stop", "without_loss", "too_long")
_RENDERED: Final = frozenset(
    {
        FaultKind.TEMPLATE_REFUSES,
        FaultKind.TEMPLATE_REWRITES,
        FaultKind.TEMPLATE_ARGUMENTS,
        FaultKind.SYSTEM_TWICE,
        FaultKind.TOO_MANY_TOKENS,
    }
)


@dataclass(slots=True)
class Tally:
    """The tokens of a file, and the first line numbers of three kinds of rows."""

    sequences: int = 0
    tokens: int = 0
    """Tokens that go through the model in one epoch."""
    trained_tokens: int = 0
    taught_tokens: int = 0
    """Of a distillation: tokens of all questions as the teacher gets them, behind the prompt."""
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

    def add(self, line: int, made: list[Columns], renderer: RowRenderer) -> None:
        for sequence in made:
            answer = columns.answer(sequence)
            self.sequences += 1
            self.tokens += sum(lengths(sequence))
            self.trained_tokens += len(answer)
            self.taught_tokens += len(sequence.get("taught_ids", ()))
            is_task = "item" in sequence  # its answers are drawn in training
            if not answer and not is_task:
                self.list_line("without_loss", line)
            elif answer and not renderer.stops(answer):
                self.list_line("without_stop", line)
            if len(self.preview) < PREVIEWED:
                segments = columns.segments(sequence, renderer)[:PREVIEWED_RUNS]
                self.preview.append([(_shortened(text), trained) for text, trained in segments])
        self.longest = max(self.longest, *map(tokens, made))

    def list_line(self, kind: str, line: int) -> None:
        """Count a line of a ``kind`` in ``_LISTED``, and list it if it is among the first ``MOST_LINES``."""
        self.lines[kind] += 1
        if self.lines[kind] <= MOST_LINES:
            getattr(self, kind).append(line)

    def to_json(self) -> Mapping[str, Any]:
        return {each.name: getattr(self, each.name) for each in fields(self)}


def tally(
    path: Path,
    method: TrainingMethod,
    renderer: RowRenderer,
    report: FileReport,
    write: Callable[[Columns], None],
    *,
    drop_long: bool,
) -> Tally:
    """Render a file: ``write`` its rows, count their tokens, add to ``report`` the faults that only the renderer finds.

    Args:
        path: a training file.
        report: of the same file; its faults end in the order of lines.
        drop_long: leave out rows that are too long, instead of adding a fault.

    Raises:
        OSError: the file cannot be read.
    """
    counted = Tally()
    for made, faults in columns.read(path, method, renderer):
        line = faults.line
        for warning in faults.warnings:
            report.add(warning)
        if made:
            counted.add(line, made, renderer)
        for row in made:
            write(row)
        found = [fault for fault in faults.found if fault.kind in _RENDERED]
        is_long = any(fault.kind is FaultKind.TOO_MANY_TOKENS for fault in found)
        if is_long:
            counted.list_line("too_long", line)
        if found and not (drop_long and is_long):
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
