"""Reads a training file line by line, in memory that does not grow with its size.

A line longer than a limit is not read into memory.
"""

import codecs
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from adapters import strict_json
from trainer import row_formats
from trainer.data.faults import FaultKind, LineFault, LineFaults, LineWarning, shown
from trainer.data.row_reader import read_row
from trainer.data.rows import Row
from trainer.row_formats import RowFormat

MAX_LINE_BYTES: Final = 8 * 2**20
_BLOCK: Final = 2**16
_UTF16_MARKS: Final = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True, slots=True)
class DataRow:
    """One line, or a run of blank ones.

    ``number`` counts from 1. ``raw`` has no line end, and is empty for a line that is too long.
    """

    number: int
    raw: bytes
    size: int
    """Bytes in the file, without the line end."""
    blanks: int = 0
    """Number of blank lines; 0 for a line with text."""


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
    for line in read_lines(path):
        faults = LineFaults(line.number)
        if line.number == 1 and line.raw.startswith(_UTF16_MARKS):
            whole = LineFault(None, FaultKind.UTF16, "", "UTF-16", "UTF-8: save the file in that encoding")
            yield ReadLine(1, None, None, (whole,))
            return
        row: Row | None = None
        value = _parse(line, faults)
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


def read_lines(path: Path) -> Iterator[DataRow]:
    """Yield the lines of a file: blank ones at its end are skipped, a run of others is one ``DataRow``.

    Memory: one line of at most ``MAX_LINE_BYTES``.
    """
    with path.open("rb") as file:
        first_blank = blanks = 0
        for number, raw, size in _numbered(file):
            if size <= MAX_LINE_BYTES and not raw.strip():
                first_blank, blanks = (first_blank or number), blanks + 1
                continue
            if blanks:
                yield DataRow(first_blank, b"", 0, blanks)
                first_blank = blanks = 0
            yield DataRow(number, raw, size)


def _numbered(file: BinaryIO) -> Iterator[tuple[int, bytes, int]]:
    number = 0
    while raw := file.readline(MAX_LINE_BYTES + 2):  # two for the line end
        number += 1
        text = raw.rstrip(b"\r\n")
        if raw.endswith(b"\n") or len(text) <= MAX_LINE_BYTES:
            yield number, text, len(text)
            continue
        size = len(raw)
        while rest := file.readline(_BLOCK):
            size += len(rest)
            if rest.endswith(b"\n"):
                break
        yield number, b"", size


def _parse(line: DataRow, faults: LineFaults) -> dict[str, Any] | None:
    """Return the JSON object on the line; None, and a fault added, if there is none."""
    if line.size > MAX_LINE_BYTES:
        faults.add(FaultKind.LINE_TOO_LONG, "", f"{line.size} bytes", f"at most {MAX_LINE_BYTES}")
        return None
    if line.blanks:
        found = "a blank line" if line.blanks == 1 else f"{line.blanks} blank lines"
        faults.add(FaultKind.BLANK_LINE, "", found, "one JSON object on each line, up to the last")
        return None
    raw = line.raw
    if line.number == 1 and raw.startswith(codecs.BOM_UTF8):
        faults.add(FaultKind.BYTE_ORDER_MARK, "", "a byte order mark", "UTF-8 without it: save again with 'no BOM'")
        raw = raw.removeprefix(codecs.BOM_UTF8)
    value = _value(raw, faults)
    if faults:
        return None
    if not isinstance(value, dict):
        faults.add(FaultKind.NOT_AN_OBJECT, "", shown(value), "a JSON object: {...}")
        return None
    return value


def _value(raw: bytes, faults: LineFaults) -> Any:
    """Return the line's JSON value; None, and a fault of its own kind added, if it has none."""
    try:
        if b"\0" in raw or b"\\u0000" in raw:
            faults.add(FaultKind.NUL_CHARACTER, "", "the character U+0000", "text; was the file cut or padded?")
        return strict_json.parse(raw)
    except UnicodeDecodeError as error:
        found = f"byte 0x{raw[error.start]:02x} at offset {error.start}"
        faults.add(FaultKind.NOT_UTF8, "", found, "UTF-8 text")
    except UnicodeEncodeError:
        faults.add(FaultKind.LONE_SURROGATE, "", "half of a surrogate pair (\\ud800 ... \\udfff)", "whole characters")
    except json.JSONDecodeError as error:
        found = f"{error.msg.lower()} at column {error.colno}, near {shown(error.doc[max(0, error.pos - 10) :][:30])}"
        faults.add(FaultKind.BAD_JSON, "", found, "one JSON object on the line")
    except ValueError as error:
        faults.add(_kind(str(error)), "", str(error), "JSON with one meaning")
    return None


def _kind(message: str) -> FaultKind:
    if "occurs twice" in message:
        return FaultKind.REPEATED_KEY
    return FaultKind.TOO_DEEP if "nesting" in message else FaultKind.NOT_A_NUMBER
