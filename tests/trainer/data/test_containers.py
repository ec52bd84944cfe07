"""The content of a file decides how its rows are found; broken and oversized files are refused."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tracemalloc
from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from tests.trainer.data.talks import TEXTS, Json, chat_row, talks
from trainer.data import containers, training_file
from trainer.data.faults import FaultKind, WarningKind
from trainer.data.file_report import inspect_file
from trainer.data.rows import Conversation, Judged, PlainText, Row
from trainer.data.training_file import read_file
from trainer.row_formats import RowFormat

Pack = Callable[[Sequence[Json]], bytes]


def as_lines(rows: Sequence[Json]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def as_array(rows: Sequence[Json]) -> bytes:
    return json.dumps(rows, ensure_ascii=False).encode()


def as_indented_array(rows: Sequence[Json]) -> bytes:
    return b"\r\n " + json.dumps(rows, indent=2).encode() + b"\r\n"


def as_csv(rows: Sequence[Json], delimiter: str = ",") -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    cells = [{key: _cell(value) for key, value in row.items()} for row in rows]
    writer.writerows(cells)
    return text.getvalue().encode()


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value


def as_tsv(rows: Sequence[Json]) -> bytes:
    return as_csv(rows, "\t")


def as_parquet(rows: Sequence[Json]) -> bytes:
    packed = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(list(rows)), packed)
    return packed.getvalue()


def as_wrapped(rows: Sequence[Json]) -> bytes:
    return b'{"data" :\n ' + as_array(rows) + b"}\n"


def as_indented_wrapped(rows: Sequence[Json]) -> bytes:
    return json.dumps({"train": rows}, indent=1).encode()


def as_spaced_lines(rows: Sequence[Json]) -> bytes:
    return b"\r\n \r\n" + as_lines(rows).replace(b"\n", b"\r\n\r\n\t\r\n")


def as_maps(rows: Sequence[Json]) -> bytes:
    """Write messages as maps, of which every key has a text; tools as JSON text."""
    pairs = [
        [[*({**message, "tool_calls": json.dumps(message.get("tool_calls"))}).items()] for message in row["messages"]]
        for row in rows
    ]
    messages = pa.array(pairs, pa.list_(pa.map_(pa.string(), pa.string())))
    packed = io.BytesIO()
    parquet.write_table(pa.table({"messages": messages, "tools": [json.dumps(row["tools"]) for row in rows]}), packed)
    return packed.getvalue()


CONTAINERS: list[Pack] = [as_lines, as_array, as_indented_array, as_csv, as_tsv, as_parquet, as_wrapped]
CONTAINERS += [as_indented_wrapped]


@pytest.fixture(scope="session")
def rows_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bytes], list[Row | None]]:
    """Writes bytes to a file without an extension and returns its rows; none has a fault."""
    path: Path = tmp_path_factory.mktemp("containers") / "file"

    def rows_of(content: bytes) -> list[Row | None]:
        path.write_bytes(content)
        lines = list(read_file(path))
        assert [fault for line in lines for fault in line.faults] == []
        assert [line.number for line in lines] == list(range(1, len(lines) + 1))
        return [line.row for line in lines]

    return rows_of


def faults_of(path: Path) -> list[tuple[int | None, FaultKind]]:
    return [(fault.line, fault.kind) for line in read_file(path) for fault in line.faults]


@settings(deadline=None, max_examples=40)
@given(
    rows=st.lists(st.fixed_dictionaries({"prompt": TEXTS, "completion": TEXTS}), min_size=1, max_size=4),
    zipped=st.booleans(),
)
@pytest.mark.parametrize("pack", CONTAINERS)
def test_every_container_has_the_same_rows(rows_of, pack: Pack, rows: list[Json], zipped: bool) -> None:
    content = gzip.compress(pack(rows)) if zipped else pack(rows)
    wanted = [
        Conversation(
            ({"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}),
            (False, True),
        )
        for row in rows
    ]
    assert rows_of(content) == wanted


@settings(deadline=None, max_examples=40)
@given(drawn=st.lists(talks, min_size=1, max_size=3), zipped=st.booleans())
@pytest.mark.parametrize("pack", [*CONTAINERS, as_maps])
def test_chats_with_tools_survive_every_container(rows_of, pack: Pack, drawn, zipped: bool) -> None:
    rows = [{"messages": list(talk.messages), "tools": list(talk.tools) or None} for talk in drawn]
    content = gzip.compress(pack(rows)) if zipped else pack(rows)
    assert rows_of(content) == rows_of(as_lines([chat_row(talk) for talk in drawn]))


def test_csv_has_judgements_and_empty_cells(rows_of) -> None:
    user, good, bad = (
        {"role": role, "content": text} for role, text in [("user", "a"), ("assistant", "b"), ("assistant", "c, d")]
    )
    content = b'prompt,completion,label\r\na,b,True\r\na,"c, d",False\r\n'
    assert rows_of(content) == [Judged((user,), good, good=True), Judged((user,), bad, good=False)]
    assert rows_of(b"prompt,completion\n,once\n\n,upon\n") == [PlainText("", "once"), PlainText("", "upon")]


def test_pandas_writes_nan_where_a_number_is_missing(rows_of) -> None:
    weights = pa.array([1.0, float("nan")])
    table = pa.table({"prompt": ["a", "b"], "completion": ["c", "d"], "score": weights})
    packed = io.BytesIO()
    parquet.write_table(table, packed)
    assert len(rows_of(packed.getvalue())) == 2


def test_bytes_of_a_column_that_is_text_are_read_as_text(tmp_path: Path) -> None:
    path = tmp_path / "train"
    path.write_bytes(as_parquet([{"prompt": "Où?".encode(), "completion": b"Oslo", "blob": b"x"}]))
    (line,) = read_file(path)
    assert [message["content"] for message in line.row.messages] == ["Où?", "Oslo"]
    assert [warning.kind for warning in line.warnings] == [*[WarningKind.CONVERTED] * 2, WarningKind.IGNORED_KEY]


def test_blank_lines_are_skipped_with_a_warning(tmp_path: Path, chats) -> None:
    path = tmp_path / "train"
    path.write_bytes(as_spaced_lines(chats))
    report = inspect_file(path)
    assert (report.ok, report.rows) == (True, len(chats))
    assert [(warning.line, warning.kind, warning.rows) for warning in report.warnings] == [
        (1, WarningKind.BLANK_LINE, len(chats))
    ]


def test_rows_under_a_key_are_said_to_be(tmp_path: Path) -> None:
    path = tmp_path / "train"
    path.write_bytes(as_wrapped([{"text": "a"}, {"text": "b"}]))
    first, second = read_file(path)
    assert "the rows are those under the key data" in {warning.message for warning in first.warnings}
    assert {warning.kind for warning in second.warnings} == {WarningKind.PLAIN_TEXT}


@pytest.mark.parametrize("mark_of", [as_lines, as_array, as_csv])
def test_a_byte_order_mark_is_skipped_with_a_warning(tmp_path: Path, chats, mark_of: Pack) -> None:
    path = tmp_path / "train"
    path.write_bytes(b"\xef\xbb\xbf" + mark_of(chats))
    report = inspect_file(path)
    assert (report.ok, report.format, report.rows) == (True, RowFormat.CHAT, len(chats))
    assert [(warning.line, warning.kind) for warning in report.warnings] == [(1, WarningKind.BYTE_ORDER_MARK)]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b'[{"text": "a"}, {"text": "b"', [(1, FaultKind.BAD_JSON)]),
        (b'[{"text": "a"}] [{"text": "b"}]', [(1, FaultKind.BAD_JSON)]),
        (b'[{"text": "a"} {"text": "b"}, {"text": "c"}]', [(1, FaultKind.BAD_JSON)]),
        (
            b'[{"text": "a"},, 7, {"text": "a", "text": "b"}]',
            [(2, FaultKind.BAD_JSON), (3, FaultKind.NOT_AN_OBJECT), (4, FaultKind.REPEATED_KEY)],
        ),
        (b'[{"text": "one\ntwo"}]', [(1, FaultKind.BAD_JSON)]),
        (b'[{"text": "caf\xe9"}, {"text": "\\ud800"}]', [(1, FaultKind.NOT_UTF8), (2, FaultKind.LONE_SURROGATE)]),
        (b'text\n"open\nquote\n', [(1, FaultKind.BAD_TABLE)]),
        (b"prompt,completion\na,b\na,b,c\nd,e,f,g\n", [(2, FaultKind.BAD_TABLE), (3, FaultKind.BAD_TABLE)]),
        (b"prompt,prompt\na,b\n", [(None, FaultKind.BAD_TABLE)]),
        (b"prompt,completion\ncaf\xe9,b\na,b\n", [(1, FaultKind.NOT_UTF8)]),
        (b'{"data": [{"text": "a"}], "n": 1}', [(1, FaultKind.BAD_JSON)]),
        (b'{"train": [{"text": "a"}], "test": [{"text": "b"}]}', [(1, FaultKind.BAD_JSON)]),
        (b'{"data": [{"text": "a"}]', [(1, FaultKind.BAD_JSON)]),
        (b'{"text": "a"}\n{"text": "b"', [(2, FaultKind.BAD_JSON)]),
        (b'{"text": "a"\n{"text": "b"}\n', [(1, FaultKind.BAD_JSON)]),
        (b"[\n[1],\n2\n]", [(1, FaultKind.NOT_AN_OBJECT), (2, FaultKind.NOT_AN_OBJECT)]),
        (b"PAR1 and no more", [(None, FaultKind.BAD_TABLE)]),
        (gzip.compress(b'{"text": "a"}\n' * 9, mtime=0)[:-9], [(None, FaultKind.BAD_ARCHIVE)]),
        (gzip.compress(b'{"text": "a"}\n' * 9, mtime=0)[:-1], [(None, FaultKind.BAD_ARCHIVE)]),
        (b"\x1f\x8b and no more", [(None, FaultKind.BAD_ARCHIVE)]),
        (gzip.compress(as_parquet([{"text": "a"}])[:-1], mtime=0), [(None, FaultKind.BAD_TABLE)]),
    ],
)
def test_a_broken_file_is_a_fault_of_it(tmp_path: Path, content: bytes, found: list[Any]) -> None:
    path = tmp_path / "train"
    path.write_bytes(content)
    assert faults_of(path) == found


def test_a_comma_behind_the_last_element_is_no_row(rows_of) -> None:
    assert rows_of(b'[ {"text": "a]\\"}"} , {"text": "\\\\"} , ]') == [PlainText("", 'a]"}'), PlainText("", "\\")]


def test_elements_are_found_wherever_a_block_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"text": text} for text in ('a "quoted" \\ word', "\\\\", "[1, {2}]", 'é\n"')]
    path = tmp_path / "train.json"
    path.write_bytes(as_array(rows))
    for size in range(1, 12):
        monkeypatch.setattr("trainer.data.json_array._BLOCK", size)
        assert [line.row for line in read_file(path)] == [PlainText("", row["text"]) for row in rows]


def test_a_file_that_unpacks_to_too_much_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(containers, "MAX_BYTES", 1 << 20)
    path = tmp_path / "train"
    path.write_bytes(gzip.compress(b"[" + b" " * (64 << 20) + b'{"text": "a"}]'))
    tracemalloc.start()
    assert [kind for _, kind in faults_of(path)] == [FaultKind.TOO_LARGE]
    assert tracemalloc.get_traced_memory()[1] < 40 << 20
    tracemalloc.stop()
    path.write_bytes(gzip.compress(as_lines([{"text": "a" * 1000}]) * 2000))
    assert faults_of(path)[-1][1] == FaultKind.TOO_LARGE
    path.write_bytes(as_parquet([{"text": "a" * 1000}] * 2000))  # a dictionary of one text
    assert faults_of(path)[-1][1] == FaultKind.TOO_LARGE
    path.write_bytes(as_lines([{"text": "a" * 1000}] * 2000))
    assert faults_of(path) == []


@pytest.mark.parametrize("pack", [as_array, as_csv, as_parquet])
def test_a_row_that_is_too_long_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: Pack) -> None:
    for module in (containers, training_file):
        monkeypatch.setattr(module, "MAX_LINE_BYTES", 1000)
    path = tmp_path / "train"
    path.write_bytes(pack([{"text": "a"}, {"text": "a" * 2000}]))
    assert [kind for _, kind in faults_of(path)] == [FaultKind.LINE_TOO_LONG]


def test_values_without_a_json_type_are_faults_only_where_they_are_read(tmp_path: Path, rows_of) -> None:
    assert rows_of(as_parquet([{"text": "a", "blob": b"\0", "at": None}])) == [PlainText("", "a")]
    path = tmp_path / "train"
    path.write_bytes(as_parquet([{"text": b"\0a"}]))
    assert faults_of(path)[0] == (1, FaultKind.WRONG_TYPE)


@pytest.mark.parametrize("value", [b"a", datetime(2026, 1, 2), date(2026, 1, 2), Decimal("4.50"), timedelta(1)])
def test_a_value_without_a_json_type_is_no_argument_of_a_call(tmp_path: Path, value: Any) -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": {"at": value}}}
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "", "tool_calls": [call]}]}
    path = tmp_path / "train"
    path.write_bytes(as_parquet([{**row, "tools": json.dumps([{"name": "add"}])}]))
    assert faults_of(path) == [(1, FaultKind.BAD_TABLE)]
