"""Every kind of fault is found where it stands, beside all others of the file."""

import bz2
import gzip
from collections.abc import Mapping
from typing import Any

import pytest

from tests.trainer.data.faulty_rows import ANSWER, CHAT_PAIR, CHATS, LINES, PAIRS, PREFERENCES, USER, chat, preference
from trainer.data.faults import FaultKind
from trainer.data.file_report import inspect_file
from trainer.training_method import TrainingMethod


@pytest.mark.parametrize(("kind", "raw"), LINES)
def test_a_line_that_is_no_object_is_told_with_its_number(write, kind: FaultKind, raw: bytes) -> None:
    report = inspect_file(write([chat(USER, ANSWER), raw, chat(USER, ANSWER)]))
    assert [(fault.line, fault.kind) for fault in report.faults if fault.line] == [(2, kind)]


@pytest.mark.parametrize(("kind", "row"), CHATS)
def test_a_bad_chat_row_is_told_with_its_number(write, kind: FaultKind, row: Mapping[str, Any]) -> None:
    report = inspect_file(write([chat(USER, ANSWER), row]))
    assert [(fault.line, fault.kind) for fault in report.faults if fault.line] == [(2, kind)]


@pytest.mark.parametrize(("kind", "row"), PREFERENCES)
def test_a_bad_preference_row_is_told_with_its_number(write, kind: FaultKind, row: Mapping[str, Any]) -> None:
    report = inspect_file(write([preference(), row]))
    assert {(fault.line, fault.kind) for fault in report.faults if fault.line} == {(2, kind)}


@pytest.mark.parametrize(("kind", "row"), PAIRS)
def test_a_bad_pair_of_answers_is_told_with_its_number(write, kind: FaultKind, row: Mapping[str, Any]) -> None:
    report = inspect_file(write([CHAT_PAIR, row]))
    assert {(fault.line, fault.kind) for fault in report.faults if fault.line} == {(2, kind)}


@pytest.mark.parametrize("label", [1, "maybe", None, 0.0])
def test_a_label_is_true_or_false(write, label: object) -> None:
    first, row = {"prompt": "a", "completion": "b", "label": True}, {"prompt": "a", "completion": "b", "label": label}
    report = inspect_file(write([first, row]))
    assert FaultKind.BAD_LABEL in {fault.kind for fault in report.faults}


def test_a_prompt_without_completion_misses_it(write) -> None:
    report = inspect_file(write([{"prompt": "a"}]))
    assert [(fault.where, fault.kind) for fault in report.faults if fault.line] == [
        ("completion", FaultKind.MISSING_KEY)
    ]


def test_a_utf16_file_is_told_once(tmp_path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n' * 20, encoding="utf-16")
    assert [fault.kind for fault in inspect_file(path).faults] == [FaultKind.UTF16, FaultKind.TOO_FEW_ROWS]


def test_an_empty_file_is_refused(tmp_path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(b"\n\n")
    assert [fault.kind for fault in inspect_file(path).faults] == [FaultKind.EMPTY_FILE]


def test_nine_rows_are_refused_and_ten_are_not(write, chats) -> None:
    assert [fault.kind for fault in inspect_file(write(chats[:9])).faults] == [FaultKind.TOO_FEW_ROWS]
    assert inspect_file(write(chats[:10])).ok


def test_a_file_for_another_method_is_refused(write, chats) -> None:
    assert [fault.kind for fault in inspect_file(write(chats), TrainingMethod.DPO).faults] == [FaultKind.WRONG_METHOD]
    assert inspect_file(write(chats), TrainingMethod.SUPERVISED).ok


def test_all_faults_of_a_file_are_told_not_only_the_first(write, chats) -> None:
    bad = [row for _, row in LINES + CHATS]
    report = inspect_file(write([*chats[:50], *bad, *chats[50:]]))
    assert [fault.line for fault in report.faults] == list(range(51, 51 + len(bad)))
    assert report.rows == len(chats)
    assert len({fault.kind for fault in report.faults}) >= 30


def test_blank_lines_at_the_end_are_forgiven(write, chats) -> None:
    assert inspect_file(write([*chats, b"", b"  ", b""])).ok


def test_a_fault_reads_as_a_sentence(write, chats) -> None:
    row = chat(USER, {**ANSWER, "weight": 2})
    assert [str(fault) for fault in inspect_file(write([*chats, row])).faults] == [
        "line 121, messages[1].weight: found 2; needed 0 or 1"
    ]


def test_faults_and_warnings_stay_short_however_long_the_keys_of_a_row_are(write, chats) -> None:
    key = "k" * 100_000
    report = inspect_file(write([*chats, chat(USER, {**ANSWER, key: 1}), {key: 1}]))
    assert [fault.line for fault in report.faults] == [len(chats) + 2]
    assert any(warning.line == len(chats) + 1 for warning in report.warnings)
    assert all(len(str(fault)) < 1200 for fault in report.faults)
    assert all(len(warning.message) < 1200 for warning in report.warnings)


CSV = "prompt,completion\n" + "a,b\n" * 20


@pytest.mark.parametrize(
    "content",
    [
        CSV.encode("utf-16"),
        CSV.replace("\n", "\r").encode(),
        bz2.compress(CSV.encode()),
        gzip.compress(gzip.compress(CSV.encode())),
        b"prompt,comple\x00tion\r\ra\x00",
    ],
    ids=["UTF-16", "CR alone", "bzip2", "gzip twice", "NUL"],
)
def test_a_table_that_cannot_be_read_is_a_fault_and_no_crash(tmp_path, content: bytes) -> None:
    path = tmp_path / "train.csv"
    path.write_bytes(content)
    assert inspect_file(path).faults
