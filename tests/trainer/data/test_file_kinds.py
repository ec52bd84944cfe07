"""A file that holds no rows is refused as what it is, by one fault; its lines are no faults of their own."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import feather

from trainer.data.faults import FaultKind
from trainer.data.file_report import inspect_file

ROWS = [{"prompt": f"{number}?", "completion": "a"} for number in range(40)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
TABLE = pa.Table.from_pylist(ROWS)


def zipped() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("train.jsonl", LINES)
    return packed.getvalue()


def tarred() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("train.jsonl"))
    return packed.getvalue()


def streamed() -> bytes:
    packed = io.BytesIO()
    with pa.ipc.new_stream(packed, TABLE.schema) as stream:
        stream.write_table(TABLE)
    return packed.getvalue()


def feathered() -> bytes:
    packed = io.BytesIO()
    feather.write_feather(TABLE, packed)
    return packed.getvalue()


INDENTED = "".join(json.dumps(row, indent=2) + "\n" for row in ROWS)
OTHERS = {
    "a zip archive": (zipped(), "zip", "gzipped"),
    "a zip archive in a gzip file": (gzip.compress(zipped()), "zip", "gzipped"),
    "a tar archive": (gzip.compress(tarred()), "tar", "gzipped"),
    "an xz file": (lzma.compress(LINES.encode()), "xz", "gzipped"),
    "a bzip2 file": (bz2.compress(LINES.encode()), "bzip2", "gzipped"),
    "a zstd file": (pa.compress(LINES.encode(), "zstd", asbytes=True), "zstd", "gzipped"),
    "gzip twice": (gzip.compress(gzip.compress(LINES.encode())), "gzip archive in a gzip file", "gzipped"),
    "an Arrow file": (feathered(), "Arrow (Feather)", "to_json"),
    "an Arrow stream": (streamed(), "Arrow stream", "to_parquet"),
    "a pickle": (pickle.dumps(ROWS), "pickle", "JSON lines"),
    "a git-lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs", "git lfs pull"),
    "a page": (b"\n<!DOCTYPE html>\n<html>\n" + b"<p>\n" * 99, "HTML", "download it again"),
    "an error of a hub": (b"Entry not found", "'Entry not found'", "JSON lines"),
    "zeros": (bytes(4096), "zeros", "download it again"),
    "YAML": (b"- messages:\n  - role: user\n    content: a\n" * 9, "'- messages:'", "JSON lines"),
    "an unknown header": (b"story,moral\na,b\n" * 40, "'story,moral'", "CSV with a header"),
    "prose": (b"Once upon a time\n\nthere was a kettle.\n" * 40, "'Once upon a time'", "JSON lines"),
    "objects over several lines": (INDENTED.encode(), "over several lines", "jq -c"),
    "objects over several lines, as Windows ends them": (INDENTED.replace("\n", "\r\n").encode(), "several", "jq -c"),
    "an object over two lines": (b'{"prompt": "a",\n "completion": "b"}\n' * 20, "over several lines", "jq -c"),
    "UTF-16": (LINES.encode("utf-16"), "UTF-16", "UTF-8"),
    "UTF-16 without a mark": (LINES.encode("utf-16-le"), "UTF-16", "UTF-8"),
    "UTF-16, the other order": (LINES.encode("utf-16-be"), "UTF-16", "UTF-8"),
}


@pytest.mark.parametrize(("content", "found", "needed"), OTHERS.values(), ids=OTHERS)
def test_a_file_of_another_kind_is_named_once(tmp_path: Path, content: bytes, found: str, needed: str) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(content)
    fault, few = inspect_file(path).faults
    assert few.kind is FaultKind.TOO_FEW_ROWS
    assert fault.line is None
    assert found in fault.found
    assert needed in fault.needed


@pytest.mark.parametrize("first", ["nonsense", "", "# rows", "{", '{"prompt": "a"', "BOM", "data"])
def test_one_bad_line_is_a_fault_of_its_own(tmp_path: Path, first: str) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(f"{first}\n{LINES}")
    report = inspect_file(path)
    assert report.rows == len(ROWS)
    assert [(fault.line, fault.kind) for fault in report.faults] == ([(1, FaultKind.BAD_JSON)] if first else [])


def test_rows_as_python_shows_them_are_said_to_be(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text("".join(f"{row}\n" for row in ROWS))
    faults = inspect_file(path).faults
    assert all("json.dumps(row)" in fault.needed for fault in faults[:-1])
    assert len(faults) == len(ROWS) + 1
