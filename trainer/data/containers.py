"""The files that rows come in: JSON lines, a JSON array, CSV or Parquet, each plain or gzipped.

The content decides which, as uploads may have any name. Whatever the file, a row is the bytes of a JSON object, and
memory does not grow with the file.
"""

import codecs
import csv
import gzip
import io
import json
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from trainer import row_formats
from trainer.data.faults import FaultKind, WarningKind, shown
from trainer.data.file_kinds import START_BYTES, other_kind, other_text
from trainer.data.json_array import ArrayCut, elements
from trainer.files.file import MAX_BYTES

MAX_LINE_BYTES: Final = 8 * 2**20
_BLOCK: Final = 2**16
_GZIP: Final = b"\x1f\x8b"
_PARQUET: Final = b"PAR1"
_ARRAY: Final = re.compile(rb"\s*\[(\s*\{|[ \t\r]*\n)")
_WRAPPED: Final = re.compile(rb'\s*\{\s*"(data|dataset|examples|rows|train|training)"\s*:\s*(?=\[\s*\{)')
"""An object whose only key holds the rows; another one behind them is a fault."""
_DELIMITERS: Final = ",\t;"
_BATCH_ROWS: Final = 64


@dataclass(frozen=True, slots=True)
class DataRow:
    """One line or row, or the first of a run of blank lines.

    ``number`` counts from 1; it is that of the line, in a table that of the row below the header. ``raw`` has no line
    end, and is empty for a row that is too long.
    """

    number: int
    raw: bytes
    size: int
    """Bytes in the file, without the line end."""
    is_blank: bool = False
    notes: tuple[tuple[WarningKind, str], ...] = ()
    """What was made of the file to find the row."""
    further_cells: int = 0
    """Cells of a table's row beyond its header; such a row is no record of it."""


class FileFault(Exception):
    """The file cannot be read as what it is; ``line`` is the row at which reading ended."""

    def __init__(self, kind: FaultKind, found: str, needed: str, line: int | None = None) -> None:
        super().__init__(found)
        self.kind = kind
        self.found = found
        self.needed = needed
        self.line = line


def read_lines(path: Path) -> Iterator[DataRow]:
    """Yield the rows of a file: blank lines at its end are skipped, a run of others is one ``DataRow``.

    Memory: one line of at most ``MAX_LINE_BYTES``, or a few rows of a table.

    Raises:
        FileFault: the file is broken, or unpacks to more than ``MAX_BYTES``.
        OSError: the file cannot be read.
    """
    with ExitStack() as opened:
        file = io.BufferedReader(opened.enter_context(path.open("rb", buffering=0)), _BLOCK)
        if file.peek(2).startswith(_GZIP):
            file = io.BufferedReader(cast("io.FileIO", _Unzipped(file)), _BLOCK)
        _refuse(other_kind(file.peek(START_BYTES)[:START_BYTES]))
        if file.peek(4).startswith(_PARQUET):
            table: BinaryIO = file
            if not file.seekable():
                table = opened.enter_context(tempfile.TemporaryFile())
                shutil.copyfileobj(file, table)
            yield from _bounded(_parquet(table))
        else:
            yield from _text_rows(file)


def _refuse(kind: tuple[FaultKind, str, str] | None) -> None:
    """Raise the fault of a file that is of another ``kind``."""
    if kind is not None:
        raise FileFault(*kind)


def _text_rows(file: "io.BufferedReader[Any]") -> Iterator[DataRow]:
    notes: list[tuple[WarningKind, str]] = []
    if file.peek(3).startswith(codecs.BOM_UTF8):
        file.read(len(codecs.BOM_UTF8))
        notes.append((WarningKind.BYTE_ORDER_MARK, "the byte order mark before the first row is skipped"))
    head = file.peek(_BLOCK)
    if _ARRAY.match(head):
        rows = _array(file)
    elif wrapped := _WRAPPED.match(head):
        notes.append((WarningKind.CONVERTED, f"the rows are those under the key {wrapped[1].decode()}"))
        file.read(wrapped.end())
        rows = _array(file, b"}")
    elif delimiter := _delimiter(head):
        rows = _bounded(_table(file, delimiter))
    else:
        _refuse(other_text(head))
        rows = _lines(file)
    for row in rows:
        yield replace(row, notes=tuple(notes)) if notes else row
        notes.clear()


def _lines(file: BinaryIO) -> Iterator[DataRow]:
    first_blank = 0
    for number, raw, size in _numbered(file):
        if size <= MAX_LINE_BYTES and not raw.strip():
            first_blank = first_blank or number
            continue
        if first_blank:
            yield DataRow(first_blank, b"", 0, is_blank=True)
            first_blank = 0
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


def _array(file: BinaryIO, end_of_file: bytes = b"") -> Iterator[DataRow]:
    number = 0
    try:
        for number, (raw, size) in enumerate(elements(file, MAX_LINE_BYTES, end_of_file), 1):
            yield DataRow(number, raw, size)
    except ArrayCut as cut:
        raise FileFault(FaultKind.BAD_JSON, cut.found, "one JSON array of objects: [{...}, ...]", number) from cut


def _delimiter(head: bytes) -> str | None:
    """Return the separator of the columns in the header with which ``head`` begins; None if it is no table."""
    line = head.partition(b"\n")[0].decode(errors="replace")
    if line.lstrip().startswith(("{", "[")):
        return None
    return next((each for each in _DELIMITERS if row_formats.is_header(_names(line, each))), None)


def _names(line: str, delimiter: str) -> list[str]:
    """Return the columns that ``line`` names as a header; none if it is no line of CSV, as in a binary file."""
    try:
        return [name.strip() for name in next(csv.reader([line], delimiter=delimiter), [])]
    except csv.Error:
        return []


class _Records:
    """The lines of a table as text, in records of at most ``MAX_LINE_BYTES``; bytes that are no UTF-8 are kept."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = 0
        """Bytes since it was last set to 0."""

    def __iter__(self) -> Iterator[str]:
        while line := self._file.readline(MAX_LINE_BYTES + 2):
            self.size += len(line)
            if self.size > MAX_LINE_BYTES:
                found = f"a record of more than {MAX_LINE_BYTES} bytes; is a quote left open?"
                raise FileFault(FaultKind.LINE_TOO_LONG, found, f"at most {MAX_LINE_BYTES}")
            yield line.decode(errors="surrogateescape")


def _table(file: BinaryIO, delimiter: str) -> Iterator[DataRow]:
    """Yield the records of a CSV file as objects of text; an empty cell is a key that is not there."""
    csv.field_size_limit(MAX_LINE_BYTES)
    records = _Records(file)
    reader = csv.reader(records, delimiter=delimiter, strict=True)
    number = 0
    try:
        names = [name.strip() for name in next(reader)]
        if repeated := {name for name in names if name and names.count(name) > 1}:
            raise FileFault(FaultKind.BAD_TABLE, f"the column {shown(min(repeated))} twice", "each column once")
        records.size = 0
        for cells in reader:
            records.size = 0
            if not cells:
                continue
            number += 1
            row = {name: cell for name, cell in zip(names, cells, strict=False) if cell}
            yield replace(_json_row(number, row), further_cells=max(0, len(cells) - len(names)))
    except csv.Error as error:
        needed = "CSV with a header, and quotes in quoted cells doubled"
        raise FileFault(FaultKind.BAD_TABLE, str(error), needed, number + 1) from error
    except FileFault as fault:
        fault.line = number or None
        raise


def _parquet(file: BinaryIO) -> Iterator[DataRow]:
    import pyarrow as pa  # a tenth of a second, and no other file needs it
    from pyarrow import parquet

    number = 0
    try:
        table = parquet.ParquetFile(file)
        size = sum(table.metadata.row_group(index).total_byte_size for index in range(table.num_row_groups))
        if size > MAX_BYTES:
            raise FileFault(FaultKind.TOO_LARGE, f"{size} bytes unpacked", f"at most {MAX_BYTES}: split the file")
        for batch in table.iter_batches(_BATCH_ROWS, use_threads=False):
            for row in batch.to_pylist(maps_as_pydicts="strict"):
                number += 1
                notes = [_decode(row, name) for name in row if isinstance(row[name], bytes)]
                yield replace(_json_row(number, row), notes=tuple(note for note in notes if note))
    except (pa.ArrowException, UnicodeDecodeError, OverflowError, KeyError) as error:
        needed = "a Parquet file as it was written"
        raise FileFault(FaultKind.BAD_TABLE, shown(str(error)), needed, number or None) from error


def _decode(row: dict[str, Any], name: str) -> tuple[WarningKind, str] | None:
    """Make a column's bytes the text that they are, where it is one that is read; return the note about it."""
    try:
        text = row[name].decode()
    except UnicodeDecodeError:
        return None
    if "\0" in text or row_formats.known_name(name) not in row_formats.KNOWN:
        return None
    row[name] = text
    return WarningKind.CONVERTED, f"the bytes of the column {name!r} are read as UTF-8 text"


def _json_row(number: int, row: dict[str, Any]) -> DataRow:
    others: list[object] = []

    def default(value: object) -> dict[str, str]:
        others.append(value)
        return _named(value)

    try:
        text = json.dumps(row, ensure_ascii=False, allow_nan=False, default=default)
    except ValueError:  # pandas has NaN where a number is not there
        text = json.dumps(_without_nan(row), ensure_ascii=False, default=default)
    if others:
        _check_inner_values(number, row)
    raw = text.encode(errors="surrogateescape")
    return DataRow(number, raw if len(raw) <= MAX_LINE_BYTES else b"", len(raw))


def _check_inner_values(number: int, row: Mapping[str, Any]) -> None:
    """Raise a fault for a value without a JSON type inside a column that is read: calls may have it as an argument."""
    for name, value in row.items():
        if not isinstance(value, list | dict) or row_formats.known_name(name) not in row_formats.KNOWN:
            continue
        try:
            json.dumps(value)
        except TypeError as error:  # its message has the type
            found = f"in the column {shown(name)}: {error}"
            raise FileFault(FaultKind.BAD_TABLE, found, "text, numbers, lists and objects", number) from error


def _named(value: object) -> dict[str, str]:
    """Return an object in place of a value that JSON has no type for: it is a fault wherever it is read."""
    return {type(value).__name__: str(value)[:80]}


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    is_number = not isinstance(value, float) or value - value == 0
    return value if is_number else None


def _bounded(rows: Iterator[DataRow]) -> Iterator[DataRow]:
    """Yield ``rows`` as long as they have at most ``MAX_BYTES`` together: a small table may repeat a long text."""
    size = 0
    for row in rows:
        size += row.size
        if size > MAX_BYTES:
            needed = f"at most {MAX_BYTES}: split the file"
            raise FileFault(FaultKind.TOO_LARGE, "more bytes in its rows", needed, row.number)
        yield row


class _Unzipped(io.RawIOBase):
    """The content of a gzip file, of at most ``MAX_BYTES``."""

    def __init__(self, file: BinaryIO) -> None:
        self._content = gzip.GzipFile(fileobj=file)
        self._size = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            read = self._content.read(len(buffer))
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise FileFault(FaultKind.BAD_ARCHIVE, str(error), "a whole gzip file") from error
        self._size += len(read)
        if self._size > MAX_BYTES:
            raise FileFault(FaultKind.TOO_LARGE, "more bytes when unzipped", f"at most {MAX_BYTES}: split the file")
        buffer[: len(read)] = read
        return len(read)
