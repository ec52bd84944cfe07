"""Reads a training file line by line, in memory that does not grow with its size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trainer import row_formats
from trainer.data import lines
from trainer.data.faults import FaultKind, LineFault, LineFaults, LineWarning
from trainer.data.row_reader import read_row
from trainer.data.rows import Row
from trainer.row_formats import RowFormat

_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True, slots=True)
class ReadLine:
    """One line: a row or faults, and warnings."""

    number: int
    form: RowFormat | None
    row: Row | None
    faults: tuple[LineFault, ...]
    warnings: tuple[LineWarning, ...] = ()


def read_file(path: Path) -> Iterator[ReadLine]:
    """Yield every line of the file as a row of the internal form, or with its faults.

    Raises:
        OSError: the file cannot be read.
    """
    form: RowFormat | None = None
    for line in lines.read(path):
        faults = LineFaults(line.number)
        if line.number == 1 and line.raw.startswith(_UTF16_MARKS):
            whole = LineFault(None, FaultKind.UTF16, "", "UTF-16", "UTF-8: save the file in that encoding")
            yield ReadLine(1, None, None, (whole,))
            return
        row: Row | None = None
        value = lines.parse(line, faults)
        if value is not None:
            own = row_formats.detect(value)
            form = form or own
            if own is None:
                needed = "messages; prompt and completion; instruction and output; input and preferred_output; label"
                faults.add(FaultKind.UNKNOWN_FORMAT, "", f"the keys {', '.join(value) or '(none)'}"[:120], needed)
            elif own is not form:
                faults.add(FaultKind.MIXED_FORMATS, "", f"a row of format {own}", f"{form}, as the rows before it")
            else:
                row = read_row(value, own, faults)
        yield ReadLine(line.number, form, row, tuple(faults.found), tuple(faults.warnings))
