"""The part of a preflight that needs no tokenizer: formats, faults, duplicates, leakage."""

import hashlib
import json
import re
import unicodedata
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

from trainer.data.faults import FaultKind, LineFault, LineWarning, WarningKind
from trainer.data.rows import (
    Conversation,
    Judged,
    PlainJudged,
    PlainPreference,
    PlainText,
    Preference,
    Ranking,
    Row,
    Task,
)
from trainer.data.training_file import read_file
from trainer.row_formats import RowFormat
from trainer.training_method import TrainingMethod

MIN_ROWS: Final = 10
"""OpenAI's rule for a training file."""
FEW_ROWS: Final = 100
"""Below this, a few examples in the prompt often do as well as training."""
MAX_LISTED: Final = 10_000
MAX_LISTED_BYTES: Final = 1 << 20
"""Faults listed, and warnings; further ones are counted. A wrong export of a million lines has a million faults."""

_GAPS: Final = re.compile(r"[\W_]+")


@dataclass(slots=True)
class FileReport:
    """The faults and warnings of one file. Faults refuse it, warnings do not."""

    format: RowFormat | None = None
    rows: int = 0
    """Rows without fault."""
    faults: list[LineFault] = field(default_factory=list)
    warnings: list[LineWarning] = field(default_factory=list)
    left_out: int = 0
    """Faults and warnings beyond ``MAX_LISTED`` or ``MAX_LISTED_BYTES``."""
    _bytes: dict[type, int] = field(default_factory=lambda: {LineFault: 0, LineWarning: 0}, repr=False)
    """Bytes of the faults as JSON, and of the warnings."""
    _places: dict[tuple[WarningKind, str], int] = field(default_factory=dict, repr=False)
    """For each kind and message of the warnings, its place in the list."""

    @property
    def ok(self) -> bool:
        return not self.faults

    def to_json(self) -> dict[str, Any]:
        """Return the public fields as JSON values."""
        return {"ok": self.ok} | {key: value for key, value in asdict(self).items() if not key.startswith("_")}

    def warn(self, line: int | None, kind: WarningKind, message: str) -> None:
        self.add(LineWarning(line, kind, message))

    def add(self, entry: LineFault | LineWarning) -> None:
        """Add a fault or a warning, or count it when the list is full. Equal warnings become one, of several rows."""
        listed: list[Any] = self.faults if isinstance(entry, LineFault) else self.warnings
        if isinstance(entry, LineWarning):
            place = self._places.get((entry.kind, entry.message))
            if place is not None:
                listed[place] = replace(listed[place], rows=listed[place].rows + 1)
                return
        if len(listed) == MAX_LISTED or self._bytes[type(entry)] >= MAX_LISTED_BYTES:
            self.left_out += 1
            return
        if isinstance(entry, LineWarning):
            self._places[entry.kind, entry.message] = len(listed)
        self._bytes[type(entry)] += len(json.dumps(asdict(entry)))
        listed.append(entry)


@dataclass(slots=True)
class _Digests:
    """Digests of rows and prompts, and the first line with each: about 300 bytes a row, whatever its length."""

    rows: dict[bytes, int] = field(default_factory=dict)
    prompts: dict[bytes, tuple[int, bytes]] = field(default_factory=dict)
    """By normalised prompt: the line and the digest of its answer."""
    labels: set[bool] = field(default_factory=set)


def inspect_file(path: Path, method: TrainingMethod | None = None) -> FileReport:
    """Return a report on a training file for ``method``; None: any method.

    Raises:
        OSError: the file cannot be read.
    """
    return _read(path, method)[0]


def inspect_files(
    training: Path, validation: Path | None, method: TrainingMethod | None
) -> tuple[FileReport, FileReport | None]:
    """Return reports on a training file and its validation file, which is warned of prompts that are in both.

    Raises:
        OSError: a file cannot be read.
    """
    report, seen = _read(training, method)
    if validation is None:
        return report, None
    other, held_out = _read(validation, method, min_rows=1)
    for digest, (line, _) in held_out.prompts.items():
        if (twin := seen.prompts.get(digest)) is not None:
            message = f"this prompt is on line {twin[0]} of the training file; the validation loss will be too low"
            other.warn(line, WarningKind.LEAKAGE, message)
    return report, other


def _read(path: Path, method: TrainingMethod | None, min_rows: int = MIN_ROWS) -> tuple[FileReport, _Digests]:
    report, seen = FileReport(), _Digests()
    for line in read_file(path, method):
        report.format = line.form
        entries: list[LineFault | LineWarning] = [*line.faults, *line.warnings]
        for entry in entries:
            report.add(entry)
        if line.row is not None:
            report.rows += 1
            _compare(line.number, line.row, seen, report)
    _check_whole(report, seen, method, min_rows)
    return report, seen


def _compare(line: int, row: Row, seen: _Digests, report: FileReport) -> None:
    values = [getattr(row, each.name) for each in fields(row)]
    digest = _digest(json.dumps(values, sort_keys=True, ensure_ascii=False))
    first = seen.rows.setdefault(digest, line)
    if first != line:
        report.warn(line, WarningKind.DUPLICATE_ROW, f"the same row as line {first}")
        return
    prompt, answer = prompt_digest(row), _digest(_answer(row))
    earlier_line, earlier_answer = seen.prompts.setdefault(prompt, (line, answer))
    if isinstance(row, Conversation) and earlier_answer != answer:
        report.warn(line, WarningKind.CONTRADICTION, f"the prompt of line {earlier_line} with another answer")
    if isinstance(row, Judged | PlainJudged):
        seen.labels.add(row.good)


def _check_whole(report: FileReport, seen: _Digests, method: TrainingMethod | None, min_rows: int) -> None:
    """Add the faults and warnings of the file as a whole."""
    if not report.rows and not report.faults:
        report.add(LineFault(None, FaultKind.EMPTY_FILE, "", "no rows", "rows, such as one JSON object on each line"))
    elif report.rows < min_rows:
        found = f"{report.rows} usable rows"
        report.add(LineFault(None, FaultKind.TOO_FEW_ROWS, "", found, f"at least {min_rows}"))
    elif report.rows < FEW_ROWS and min_rows == MIN_ROWS:
        message = f"{report.rows} rows: below {FEW_ROWS}, examples in the prompt often do better; try them first"
        report.warn(None, WarningKind.FEW_ROWS, message)
    if method is not None and report.format is not None and report.format not in method.traits.formats:
        needed = f"for method {method}: {', '.join(method.traits.formats)}"
        report.add(LineFault(None, FaultKind.WRONG_METHOD, "", f"format {report.format}", needed))
    if len(seen.labels) == 1:
        message = f"every label is {str(*seen.labels).lower()}: there is nothing to learn from"
        report.warn(None, WarningKind.ONE_LABEL, message)


def normalised(text: str) -> str:
    """Return ``text`` without case, width, punctuation and spacing: near-identical prompts become equal."""
    return _GAPS.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def prompt_digest(row: Row) -> bytes:
    """Return the digest of the normalised prompt: rows with equal ones are near-duplicates."""
    return _digest(normalised(prompt_text(row)))


def prompt_text(row: Row) -> str:
    """Return the prompt of ``row`` in one text; of a text without one, the text itself."""
    if isinstance(row.prompt, str):
        return row.prompt or _answer(row)
    return "\n".join(f"{message['role']}: {message['content']}" for message in row.prompt)


def _answer(row: Row) -> str:
    match row:
        case Conversation():
            message = row.messages[len(row.prompt)]
        case Preference():
            message = row.preferred
        case Ranking():
            message = row.answers[0]
        case Task():
            return json.dumps(row.item, sort_keys=True, ensure_ascii=False)
        case Judged():
            message = row.answer
        case PlainText() | PlainJudged():
            return row.completion
        case PlainPreference():
            return row.preferred
    return f"{message['content']}{message.get('tool_calls', '')}"


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
