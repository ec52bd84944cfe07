"""Recognizes files that hold no rows that are read: archives, pages, pointers and other formats.

One fault says what such a file is, where each of its lines would be a fault of its own.
"""

import codecs
import json
import re
from typing import Final

from adapters.storage.mistaken_files import PICKLES, archive_kind, mistaken_download
from trainer import row_formats
from trainer.data.faults import FaultKind, shown

START_BYTES: Final = 512
"""As many bytes of a file tell its kind."""
_UNPACKED: Final = "the file in it, plain or gzipped"
_EXPORTED: Final = "its rows as JSON lines, CSV or Parquet"
_UTF8: Final = "UTF-8: save the file in that encoding"
_UTF16_MARKS: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_MAGICS: Final = (
    (b"ARROW1", "an Arrow (Feather) file", f"{_EXPORTED}: Dataset.to_json(path), or to_parquet(path)"),
    (b"\xff\xff\xff\xff", "an Arrow stream", f"{_EXPORTED}: Dataset.to_json(path), or to_parquet(path)"),
    (b"FEA1", "a Feather file", _EXPORTED),
    (b"Obj\x01", "an Avro file", _EXPORTED),
    (b"\x89HDF", "an HDF5 file", _EXPORTED),
    (b"SQLite format 3\0", "an SQLite database", _EXPORTED),
    (b"%PDF-", "a PDF", _EXPORTED),
    *((beginning, "a Python pickle", _EXPORTED) for beginning in PICKLES),
)
_INDENTED: Final = re.compile(rb'\s*(\{[^\n]*)\n[ \t"}\]]')
"""A JSON object whose text goes on behind a line's end, unless the line is all of it."""
_JSON_LINE: Final = re.compile(rb"^\s*[{\[]", re.MULTILINE)


def other_kind(start: bytes) -> tuple[FaultKind, str, str] | None:
    """Return the fault of a file that begins with ``start``, what was found and what is needed; None: it may be read.

    Files that are read are gzip files, whose content is looked at in its turn, Parquet and text.
    """
    if mistaken := mistaken_download(start):
        return FaultKind.OTHER_FILE, *mistaken
    if start.startswith(_UTF16_MARKS):
        return FaultKind.UTF16, "UTF-16", _UTF8
    if b"\0" in start[:2] and start[:1] in b"\0{[" and start[1:2] in b"\0{[":
        return FaultKind.UTF16, "UTF-16 without its mark", _UTF8
    for magic, found, needed in _MAGICS:
        if start.startswith(magic):
            return FaultKind.OTHER_FILE, found, needed
    if (archive := archive_kind(start)) is not None:
        is_gzip, is_zip = start.startswith(b"\x1f\x8b"), start.startswith(b"PK")
        more = " in a gzip file" if is_gzip else ", as Excel's files are" if is_zip else ""
        return FaultKind.OTHER_FILE, archive + more, _UNPACKED
    return None


def other_text(head: bytes) -> tuple[FaultKind, str, str] | None:
    """Return the fault of a text with this ``head`` that is no JSON lines, what was found and what is needed."""
    if indented := _INDENTED.match(head):
        if not _is_json(indented[1]):
            needed = "one object on each line (jq -c . FILE writes that), or an array of objects: [{...}, ...]"
            return FaultKind.BAD_JSON, "a JSON object over several lines", needed
    elif head.strip() and not _JSON_LINE.search(head):
        needed = f"JSON lines, a JSON array, Parquet, or CSV with a header, of rows with {row_formats.KEYS}"
        return FaultKind.OTHER_FILE, f"a file that begins with {shown(_first_line(head))}", needed
    return None


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _first_line(head: bytes) -> str:
    return head.strip().split(b"\n", 1)[0][:START_BYTES].decode(errors="backslashreplace")
