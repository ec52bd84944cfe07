"""Reads a training file row by row, in memory that does not grow with its size."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from adapters import strict_json
from trainer import row_formats
from trainer.data.column_names import standard_columns
from trainer.data.containers import MAX_LINE_BYTES, DataRow, FileFault, read_lines
from trainer.data.faults import FaultKind, LineFault, LineFaults, LineWarning, WarningKind, shown
from trainer.data.json_text import json_value
from trainer.data.nulls import without_nulls
from trainer.data.preferences import as_ranking
from trainer.data.row_reader import read_row
from trainer.data.rows import Row
from trainer.row_formats import RowFormat

if TYPE_CHECKING:
    from trainer.training_method import TrainingMethod  # imports pydantic, which would slow down every command

_TEMPLATE_ARGUMENTS: Final = "chat_template_kwargs"
_PYTHON: Final = "one JSON object on the line: json.dumps(row), not str(row)"


@dataclass(frozen=True, slots=True)
class ReadLine:
    """One line: a row or faults, and warnings."""

    number: int
    form: RowFormat | None
    row: Row | None
    faults: tuple[LineFault, ...]
    warnings: tuple[LineWarning, ...] = ()
    template_arguments: Mapping[str, Any] = field(default_factory=dict)
    """What the row states as ``chat_template_kwargs``; the server renders with its own."""


def read_file(path: Path, method: TrainingMethod | None = None) -> Iterator[ReadLine]:
    """Yield every line of the file as a row of the internal form, or with its faults.

    Reinforcement training reads rows as tasks, whatever their columns: those beside the prompt are the grader's.
    Distillation reads them as questions, reward training reads pairs as rankings of two.

    Raises:
        OSError: the file cannot be read.
    """
    formats = () if method is None else method.traits.formats
    stated = next((each for each in formats if each in row_formats.STATED), None)
    form = stated
    try:
        for line in read_lines(path):
            faults = LineFaults(line.number)
            value = _parse(line, faults)
            row, arguments = None, {}
            if value is not None:
                if stated is not RowFormat.TASK:
                    value = standard_columns(value, faults)
                arguments = _pop_template_arguments(value, faults)
                own = stated or (None if faults else _form(value, form, faults))
                form = form or own
                row = read_row(value, own, faults) if own is not None and not faults else None
                if row is not None and RowFormat.RANKING in formats:
                    row = as_ranking(row, faults)
            yield ReadLine(line.number, form, row, tuple(faults.found), tuple(faults.warnings), arguments)
    except FileFault as broken:
        whole = LineFault(broken.line, broken.kind, "", broken.found, broken.needed)
        yield ReadLine(broken.line or 1, form, None, (whole,))


def _form(value: dict[str, Any], form: RowFormat | None, faults: LineFaults) -> RowFormat | None:
    """Return the format of a row in a file of format ``form``; a fault is added if it is none or another one."""
    own = row_formats.detect(value)
    if form is RowFormat.KTO and own in row_formats.JUDGED:
        return form  # its label is missing or no judgement, and the fault says so
    if value and all(isinstance(column, dict) and "0" in column for column in value.values()):
        needed = 'rows: frame.to_json(path, orient="records", lines=True)'
        faults.add(FaultKind.UNKNOWN_FORMAT, "", "columns, as pandas writes them by default", needed)
        return None
    if own is None:
        found = f"the keys {', '.join(value) or '(none)'}"[:120]
        faults.add(FaultKind.UNKNOWN_FORMAT, "", found, row_formats.KEYS)
    elif own is not (form or own):
        faults.add(FaultKind.MIXED_FORMATS, "", f"a row of format {own}", f"{form}, as the rows before it")
    return own


def _pop_template_arguments(row: dict[str, Any], faults: LineFaults) -> dict[str, Any]:
    stated = json_value(row.pop(_TEMPLATE_ARGUMENTS, None) or {})
    return faults.typed(stated, dict, _TEMPLATE_ARGUMENTS) or {}


def _parse(line: DataRow, faults: LineFaults) -> dict[str, Any] | None:
    """Return the JSON object on the line without nulls; None, and a fault added, if there is none."""
    if line.size > MAX_LINE_BYTES:
        faults.add(FaultKind.LINE_TOO_LONG, "", f"{line.size} bytes", f"at most {MAX_LINE_BYTES}")
        return None
    for kind, message in line.notes:
        faults.warn(kind, message)
    if line.is_blank:
        faults.warn(WarningKind.BLANK_LINE, "blank lines are skipped")
        return None
    if line.further_cells:
        found, needed = f"{line.further_cells} cells beyond the header's", "quotes around cells with separators"
        faults.add(FaultKind.BAD_TABLE, "", found, needed)
        return None
    value = _value(line.raw, faults)
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
        value = strict_json.parse(raw)
        if b"null" not in raw or not isinstance(value, dict):
            return value
        value, is_padded = without_nulls(value)
        if is_padded:
            faults.warn(WarningKind.NULL_VALUE, "null is read as a key that is not there")
        return value
    except RecursionError:
        faults.add(FaultKind.TOO_DEEP, "", "nesting is too deep", "JSON with fewer levels")
    except UnicodeDecodeError as error:
        found = f"byte 0x{raw[error.start]:02x} at offset {error.start}"
        faults.add(FaultKind.NOT_UTF8, "", found, "UTF-8 text")
    except UnicodeEncodeError:
        faults.add(FaultKind.LONE_SURROGATE, "", "half of a surrogate pair (\\ud800 ... \\udfff)", "whole characters")
    except json.JSONDecodeError as error:
        found = f"{error.msg.lower()} at column {error.colno}, near {shown(error.doc[max(0, error.pos - 10) :][:30])}"
        faults.add(FaultKind.BAD_JSON, "", found, _PYTHON if raw.startswith(b"{'") else "one JSON object on the line")
    except ValueError as error:
        faults.add(_kind(str(error)), "", str(error), "JSON with one meaning")
    return None


def _kind(message: str) -> FaultKind:
    if "occurs twice" in message:
        return FaultKind.REPEATED_KEY
    return FaultKind.TOO_DEEP if "nesting" in message else FaultKind.NOT_A_NUMBER
