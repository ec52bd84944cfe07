"""Every kind of fault is found where it stands, beside all others of the file."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from trainer.data import lines
from trainer.data.check import check_file
from trainer.data.faults import FaultKind
from trainer.run_spec import Method

USER = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Hello"}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


def chat(*messages: Any, **more: Any) -> dict[str, Any]:
    return {"messages": list(messages), **more}


def call(name: str = "add", arguments: Any = "{}", call_id: str = "1") -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"role": "assistant", "tool_calls": [{"id": call_id, "type": "function", "function": function}]}


def result(call_id: str = "1") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": "3"}


def preference(**changed: Any) -> dict[str, Any]:
    worse = {"role": "assistant", "content": "No"}
    row = {"input": {"messages": [USER]}, "preferred_output": [ANSWER], "non_preferred_output": [worse]}
    return row | changed


LINES: list[tuple[FaultKind, bytes]] = [
    (FaultKind.BAD_JSON, b'{"messages": ['),
    (FaultKind.BAD_JSON, b"{'messages': []}"),
    (FaultKind.BAD_JSON, b"{} {}"),
    (FaultKind.NOT_UTF8, b'{"messages": "caf\xe9"}'),
    (FaultKind.REPEATED_KEY, b'{"messages": [], "messages": []}'),
    (FaultKind.NOT_A_NUMBER, b'{"messages": NaN}'),
    (FaultKind.NOT_A_NUMBER, b'{"messages": [-Infinity]}'),
    (FaultKind.TOO_DEEP, b"[" * 100_000),
    (FaultKind.LONE_SURROGATE, b'{"messages": "\\ud800"}'),
    (FaultKind.NUL_CHARACTER, b'{"messages": "a\\u0000"}'),
    (FaultKind.NOT_AN_OBJECT, b"[]"),
    (FaultKind.NOT_AN_OBJECT, b"null"),
    (FaultKind.UNKNOWN_FORMAT, b"{}"),
    (FaultKind.UNKNOWN_FORMAT, b'{"text": "Once upon a time"}'),
    (FaultKind.BLANK_LINE, b"   "),
    (FaultKind.LINE_TOO_LONG, b'{"messages": "' + b"a" * lines.MAX_LINE_BYTES + b'"}'),
]
CHATS: list[tuple[FaultKind, Any]] = [
    (FaultKind.MIXED_FORMATS, {"prompt": "a", "completion": "b"}),
    (FaultKind.UNKNOWN_KEY, chat(USER, ANSWER, comment="x")),
    (FaultKind.UNKNOWN_KEY, chat({**USER, "mood": "good"}, ANSWER)),
    (FaultKind.WRONG_TYPE, {"messages": {}}),
    (FaultKind.WRONG_TYPE, chat("Hi", ANSWER)),
    (FaultKind.WRONG_TYPE, chat({"role": 1, "content": "Hi"}, ANSWER)),
    (FaultKind.WRONG_TYPE, chat({"role": "user", "content": 5}, ANSWER)),
    (FaultKind.MISSING_KEY, chat({"content": "Hi"}, ANSWER)),
    (FaultKind.MISSING_KEY, chat({"role": "user"}, ANSWER)),
    (FaultKind.NO_MESSAGES, chat()),
    (FaultKind.WRONG_ROLE, chat({"role": "human", "content": "Hi"}, ANSWER)),
    (FaultKind.ROLE_ORDER, chat(ANSWER, USER, ANSWER)),
    (FaultKind.ROLE_ORDER, chat(USER, {"role": "system", "content": "Be kind"}, ANSWER)),
    (FaultKind.ROLE_ORDER, chat(USER, result(), ANSWER, tools=[TOOL])),
    (FaultKind.NO_ANSWER, chat(USER)),
    (FaultKind.LAST_NOT_ASSISTANT, chat(USER, ANSWER, USER)),
    (FaultKind.EMPTY_ANSWER, chat(USER, {"role": "assistant", "content": " \n"})),
    (FaultKind.EMPTY_ANSWER, chat(USER, {"role": "assistant", "content": None})),
    (FaultKind.EMPTY_PROMPT, chat({"role": "user", "content": ""}, ANSWER)),
    (FaultKind.UNSUPPORTED_PART, chat({"role": "user", "content": [{"type": "image_url"}]}, ANSWER)),
    (FaultKind.BAD_WEIGHT, chat(USER, {**ANSWER, "weight": 0.5})),
    (FaultKind.BAD_WEIGHT, chat(USER, {**ANSWER, "weight": True})),
    (FaultKind.WEIGHT_ELSEWHERE, chat({**USER, "weight": 1}, ANSWER)),
    (FaultKind.NOTHING_TRAINED, chat(USER, {**ANSWER, "weight": 0})),
    (FaultKind.BAD_TOOL, chat(USER, ANSWER, tools=[{"name": "add"}])),
    (FaultKind.REPEATED_TOOL, chat(USER, ANSWER, tools=[TOOL, TOOL])),
    (FaultKind.CALL_WITHOUT_TOOLS, chat(USER, call())),
    (FaultKind.UNKNOWN_TOOL, chat(USER, call("subtract"), tools=[TOOL])),
    (FaultKind.BAD_CALL, chat(USER, {"role": "assistant", "tool_calls": [{"name": "add"}]}, tools=[TOOL])),
    (FaultKind.BAD_CALL, chat(USER, {"role": "assistant", "tool_calls": []}, tools=[TOOL])),
    (FaultKind.BAD_ARGUMENTS, chat(USER, call(arguments="{a: 1}"), tools=[TOOL])),
    (FaultKind.BAD_ARGUMENTS, chat(USER, call(arguments="[1]"), tools=[TOOL])),
    (FaultKind.UNKNOWN_CALL_ID, chat(USER, call(), result("2"), result(), ANSWER, tools=[TOOL])),
    (FaultKind.UNANSWERED_CALL, chat(USER, call(), USER, ANSWER, tools=[TOOL])),
]
PREFERENCES: list[tuple[FaultKind, Any]] = [
    (FaultKind.SAME_ANSWERS, preference(non_preferred_output=[ANSWER])),
    (FaultKind.NO_ANSWER, preference(preferred_output=[])),
    (FaultKind.WRONG_ROLE, preference(preferred_output=[USER])),
    (FaultKind.ROLE_ORDER, preference(input={"messages": [USER, ANSWER]})),
    (FaultKind.MISSING_KEY, {"preferred_output": [ANSWER]}),
    (FaultKind.UNKNOWN_KEY, preference(margin=2)),
]


@pytest.mark.parametrize(("kind", "raw"), LINES)
def test_a_line_that_is_no_object_is_told_with_its_number(write, kind: FaultKind, raw: bytes) -> None:
    report = check_file(write([chat(USER, ANSWER), raw, chat(USER, ANSWER)]))
    assert [(fault.line, fault.kind) for fault in report.faults if fault.line] == [(2, kind)]


@pytest.mark.parametrize(("kind", "row"), CHATS)
def test_a_bad_chat_row_is_told_with_its_number(write, kind: FaultKind, row: Mapping[str, Any]) -> None:
    report = check_file(write([chat(USER, ANSWER), row]))
    assert [(fault.line, fault.kind) for fault in report.faults if fault.line] == [(2, kind)]


@pytest.mark.parametrize(("kind", "row"), PREFERENCES)
def test_a_bad_preference_row_is_told_with_its_number(write, kind: FaultKind, row: Mapping[str, Any]) -> None:
    report = check_file(write([preference(), row]))
    assert {(fault.line, fault.kind) for fault in report.faults if fault.line} == {(2, kind)}


@pytest.mark.parametrize("label", [1, "true", None])
def test_a_label_is_true_or_false(write, label: object) -> None:
    report = check_file(write([{"prompt": "a", "completion": "b", "label": label}]))
    assert FaultKind.BAD_LABEL in {fault.kind for fault in report.faults}


def test_a_prompt_without_completion_misses_it(write) -> None:
    report = check_file(write([{"prompt": "a"}]))
    assert [(fault.where, fault.kind) for fault in report.faults if fault.line] == [
        ("completion", FaultKind.MISSING_KEY)
    ]


def test_a_byte_order_mark_is_told_and_the_row_behind_it_read(write, chats) -> None:
    report = check_file(write([b"\xef\xbb\xbf" + json.dumps(chats[0]).encode(), *chats[1:]]))
    assert [(fault.line, fault.kind) for fault in report.faults] == [(1, FaultKind.BYTE_ORDER_MARK)]


def test_a_utf16_file_is_told_once(tmp_path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n' * 20, encoding="utf-16")
    assert [fault.kind for fault in check_file(path).faults] == [FaultKind.UTF16, FaultKind.TOO_FEW_ROWS]


def test_an_empty_file_is_refused(tmp_path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(b"\n\n")
    assert [fault.kind for fault in check_file(path).faults] == [FaultKind.EMPTY_FILE]


def test_nine_rows_are_refused_and_ten_are_not(write, chats) -> None:
    assert [fault.kind for fault in check_file(write(chats[:9])).faults] == [FaultKind.TOO_FEW_ROWS]
    assert check_file(write(chats[:10])).ok


def test_a_file_for_another_method_is_refused(write, chats) -> None:
    assert [fault.kind for fault in check_file(write(chats), Method.DPO).faults] == [FaultKind.WRONG_METHOD]
    assert check_file(write(chats), Method.SUPERVISED).ok


def test_all_faults_of_a_file_are_told_not_only_the_first(write, chats) -> None:
    bad = [row for _, row in LINES + CHATS]
    report = check_file(write([*chats[:50], *bad, *chats[50:]]))
    assert [fault.line for fault in report.faults] == list(range(51, 51 + len(bad)))
    assert report.rows == len(chats)
    assert len({fault.kind for fault in report.faults}) >= 30


def test_blank_lines_at_the_end_are_forgiven(write, chats) -> None:
    assert check_file(write([*chats, b"", b"  ", b""])).ok


def test_a_fault_reads_as_a_sentence(write, chats) -> None:
    row = chat(USER, {**ANSWER, "weight": 2})
    assert [str(fault) for fault in check_file(write([*chats, row])).faults] == [
        "line 121, messages[1].weight: found 2; needed 0 or 1"
    ]
