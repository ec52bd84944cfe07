"""Preflight of training files without a tokenizer: formats, faults, duplicates, leakage."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from trainer.data.faults import FaultKind, LineFault, LineWarning, WarningKind
from trainer.data.rows import Conversation, Judged, Message, Preference, Row, canonical
from trainer.data.training_file import read_file
from trainer.row_formats import RowFormat
from trainer.training_method import TrainingMethod

MIN_ROWS: Final = 10
"""OpenAI's rule for a training file."""
FEW_ROWS: Final = 100
"""Below this prompts are worth trying first: a few examples in the prompt often do as well."""
MAX_TOLD: Final = 10_000
"""Faults and warnings kept, each; further ones are counted. A wrong export of a million lines has a million faults."""

_GAPS: Final = re.compile(r"[\W_]+")


@dataclass(slots=True)
class FileReport:
    """What was found in one file. ``faults`` refuse it, ``warnings`` do not."""

    format: RowFormat | None = None
    rows: int = 0
    """Rows without fault."""
    faults: list[LineFault] = field(default_factory=list)
    warnings: list[LineWarning] = field(default_factory=list)
    left_out: int = 0
    """Faults and warnings that are not listed, beyond ``MAX_TOLD``."""

    @property
    def ok(self) -> bool:
        """Whether the file may be trained on."""
        return not self.faults

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values, with ``ok``."""
        return {
            "ok": self.ok,
            "format": self.format,
            "rows": self.rows,
            "faults": [fault.to_json() for fault in self.faults],
            "warnings": [warning.to_json() for warning in self.warnings],
            "left_out": self.left_out,
        }

    def refuse(self, fault: LineFault) -> None:
        """Add a fault, or count it when the list is full."""
        if len(self.faults) < MAX_TOLD:
            self.faults.append(fault)
        else:
            self.left_out += 1

    def warn(self, line: int | None, kind: WarningKind, message: str) -> None:
        """Add a warning, or count it when the list is full."""
        if len(self.warnings) < MAX_TOLD:
            self.warnings.append(LineWarning(line, kind, message))
        else:
            self.left_out += 1


@dataclass(slots=True)
class _Seen:
    """Digests of rows and prompts, and the line that had each first: about 300 bytes a row, however long it is."""

    rows: dict[bytes, int] = field(default_factory=dict)
    prompts: dict[bytes, tuple[int, bytes]] = field(default_factory=dict)
    """Of each normalised prompt: the line, and the digest of its answer."""
    labels: set[bool] = field(default_factory=set)


def inspect_file(path: Path, method: TrainingMethod | None = None) -> FileReport:
    """Read a training file to its end and report everything wrong with it; ``method`` None: any.

    Raises:
        OSError: the file cannot be read.
    """
    report, _ = _check(path, method)
    return report


def inspect_files(
    training: Path, validation: Path | None, method: TrainingMethod | None
) -> tuple[FileReport, FileReport | None]:
    """Check a training file and, where there is one, its validation file; prompts in both are told as leakage.

    Raises:
        OSError: a file cannot be read.
    """
    report, seen = _check(training, method)
    if validation is None:
        return report, None
    other, held_out = _check(validation, method, min_rows=1)
    for digest, (line, _) in held_out.prompts.items():
        if (twin := seen.prompts.get(digest)) is not None:
            message = f"this prompt is on line {twin[0]} of the training file; the validation loss will flatter"
            other.warn(line, WarningKind.LEAKAGE, message)
    return report, other


def _check(path: Path, method: TrainingMethod | None, min_rows: int = MIN_ROWS) -> tuple[FileReport, _Seen]:
    report, seen = FileReport(), _Seen()
    for line in read_file(path):
        report.format = line.form
        for fault in line.faults:
            report.refuse(fault)
        if line.row is not None:
            report.rows += 1
            _compare(line.number, line.row, seen, report)
    _judge(report, seen, method, min_rows)
    return report, seen


def _compare(line: int, row: Row, seen: _Seen, report: FileReport) -> None:
    digest = _digest(canonical(row))
    first = seen.rows.setdefault(digest, line)
    if first != line:
        report.warn(line, WarningKind.DUPLICATE_ROW, f"the same row as line {first}")
        return
    prompt, answer = _digest(normalised(_prompt(row)).encode()), _digest(_answer(row).encode())
    earlier_line, earlier_answer = seen.prompts.setdefault(prompt, (line, answer))
    if isinstance(row, Conversation) and earlier_answer != answer:
        report.warn(line, WarningKind.CONTRADICTION, f"the prompt of line {earlier_line} with another answer")
    if isinstance(row, Judged):
        seen.labels.add(row.good)


def _judge(report: FileReport, seen: _Seen, method: TrainingMethod | None, min_rows: int) -> None:
    """Add what only the whole file shows."""
    if not report.rows and not report.faults:
        report.refuse(LineFault(None, FaultKind.EMPTY_FILE, "", "no rows", "one JSON object on each line"))
    elif report.rows < min_rows:
        found, needed = f"{report.rows} usable rows", f"at least {min_rows}"
        report.refuse(LineFault(None, FaultKind.TOO_FEW_ROWS, "", found, needed))
    elif report.rows < FEW_ROWS and min_rows == MIN_ROWS:
        message = f"{report.rows} rows: try examples in the prompt first, and compare; below {FEW_ROWS} they often win"
        report.warn(None, WarningKind.FEW_ROWS, message)
    if method is not None and report.format is not None and report.format not in method.traits.formats:
        fitting = ", ".join(method.traits.formats)
        found, needed = f"format {report.format}", f"for method {method}: {fitting}"
        report.refuse(LineFault(None, FaultKind.WRONG_METHOD, "", found, needed))
    if len(seen.labels) == 1:
        report.warn(None, WarningKind.ONE_LABEL, f"every label is {str(*seen.labels).lower()}: nothing to tell apart")


def normalised(text: str) -> str:
    """``text`` without case, width, punctuation and spacing, so that near-identical prompts are found equal."""
    return _GAPS.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def _prompt(row: Row) -> str:
    return "\n".join(f"{message['role']}: {message['content']}" for message in row.prompt)


def _answer(row: Row) -> str:
    def said(message: Message) -> str:
        return f"{message['content']}{message.get('tool_calls', '')}"

    match row:
        case Conversation():
            return said(row.messages[len(row.prompt)])
        case Preference():
            return said(row.preferred)
        case Judged():
            return said(row.answer)


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()
