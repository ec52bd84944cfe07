"""Tools, calls and results: what belongs together, and null where null is a value."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.trainer.data.conftest import Read
from tests.trainer.data.faulty_rows import ANSWER, TOOL, USER, call, chat, result
from trainer.data.faults import FaultKind
from trainer.data.nulls import without_nulls
from trainer.data.training_file import read_file


def calls(*names_and_ids: tuple[str, str | None]) -> dict[str, Any]:
    made = [{"id": call_id, "function": {"name": name, "arguments": ""}} for name, call_id in names_and_ids]
    return {"role": "assistant", "content": "", "tool_calls": made}


def results(*names_and_ids: tuple[str | None, str | None]) -> list[dict[str, Any]]:
    return [{"role": "tool", "name": name, "tool_call_id": call_id, "content": "3"} for name, call_id in names_and_ids]


BOTH = [TOOL, {"type": "function", "function": {"name": "sub"}}]


@pytest.mark.parametrize(
    ("called", "answered", "ids"),
    [
        ([("add", None), ("sub", None)], [(None, None), (None, None)], [0, 1]),
        ([("add", None), ("sub", None)], [("sub", None), ("add", None)], [1, 0]),
        ([("add", "a"), ("sub", "b")], [(None, "b"), (None, "a")], [1, 0]),
        ([("add", "a"), ("sub", "b")], [(None, None), (None, None)], [0, 1]),
        ([("add", "a"), ("add", "b")], [("add", None), ("add", None)], [0, 1]),
        ([("add", None), ("sub", None)], [("sub", "x"), ("add", "y")], [1, 0]),
        ([("add", None)], [("other", None)], [0]),
        ([("add", 7)], [(None, 7.0)], [0]),
    ],
)
def test_a_result_belongs_to_a_call_by_id_name_or_order(read: Read, called: Any, answered: Any, ids: list[int]) -> None:
    row = read(chat(USER, calls(*called), *results(*answered), ANSWER, tools=BOTH)).row
    made = [each["id"] for each in row.messages[1]["tool_calls"]]
    assert len(set(made)) == len(made)
    assert [message["tool_call_id"] for message in row.messages[2:-1]] == [made[index] for index in ids]


@pytest.mark.parametrize(
    ("called", "answered", "kind"),
    [
        ([("add", "a")], [(None, "b")], FaultKind.UNKNOWN_CALL_ID),
        ([("add", "a")], [(None, "a"), (None, "a")], FaultKind.ROLE_ORDER),
        ([("add", None)], [(None, None), (None, None)], FaultKind.ROLE_ORDER),
        ([("add", None), ("sub", None)], [(None, None)], FaultKind.UNANSWERED_CALL),
        ([("mul", None)], [(None, None)], FaultKind.UNKNOWN_TOOL),
    ],
)
def test_calls_and_results_that_do_not_belong_together_are_refused(write, called, answered, kind: FaultKind) -> None:
    (line,) = read_file(write([chat(USER, calls(*called), *results(*answered), ANSWER, tools=BOTH)]))
    assert kind in {fault.kind for fault in line.faults}


def test_calls_and_functions_may_stand_twice_if_they_are_the_same(read: Read, write) -> None:
    called, function = call(), TOOL["function"]
    twice = {**called, "function_call": called["tool_calls"][0]["function"]}
    row = chat(USER, twice, result(), ANSWER, tools=[TOOL], functions=[function])
    assert read(row).row == read(chat(USER, called, result(), ANSWER, tools=[TOOL])).row
    other = {**called, "function_call": {"name": "add", "arguments": '{"a": 1}'}}
    (line,) = read_file(write([chat(USER, other, result(), ANSWER, tools=[TOOL])]))
    assert [fault.kind for fault in line.faults] == [FaultKind.BAD_CALL]


@pytest.mark.parametrize("value", ["add(1)", "", "[]", "[1]"])
def test_a_call_as_text_that_is_no_call_is_refused(write, value: str) -> None:
    (line,) = read_file(write([chat(USER, {"from": "function_call", "value": value}, tools=[TOOL])]))
    assert FaultKind.BAD_CALL in {fault.kind for fault in line.faults}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("", "{}"),
        (None, "{}"),
        ({}, "{}"),
        ('{ "a":1 }', '{ "a":1 }'),
        ('{"a": null}', '{"a": null}'),
        ({"a": "é", "b": None}, '{"a": "é"}'),
        ({"optional": None, "a": None}, '{"optional": null}'),
        ({"inner": {"optional": None, "x": None, "y": 1}}, '{"inner": {"y": 1}}'),
    ],
)
def test_null_is_an_argument_where_the_tool_allows_it(read: Read, arguments: Any, text: str) -> None:
    properties = {"a": {"type": "string"}, "optional": {"type": ["string", "null"]}, "inner": {"type": "object"}}
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": properties}}}
    row = read(chat(USER, call(arguments=arguments), result(), ANSWER, tools=[tool])).row
    assert row.messages[1]["tool_calls"][0]["function"]["arguments"] == text


def test_null_stays_where_a_schema_allows_it() -> None:
    schema = {
        "a": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None, "enum": None},
        "b": {"type": "string", "default": None},
        "c": {"enum": ["x", None], "default": None},
    }
    assert without_nulls(schema)[0] == {
        "a": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
        "b": {"type": "string"},
        "c": {"enum": ["x", None], "default": None},
    }


@pytest.mark.parametrize(
    "tool",
    [
        TOOL["function"],
        {"function": TOOL["function"]},
        {"type": "function", **TOOL["function"]},
        json.dumps(TOOL),
        {**TOOL, "function": {**TOOL["function"], "parameters": json.dumps(TOOL["function"]["parameters"])}},
    ],
)
def test_a_tool_is_a_function_in_every_spelling(read: Read, tool: Any) -> None:
    row = read(chat(USER, call(), result(), ANSWER, tools=[tool])).row
    assert row.tools == (TOOL,)


@pytest.mark.parametrize("empty", [None, [], "", {}])
def test_empty_tools_and_calls_are_none(read: Read, empty: Any) -> None:
    row = read(chat(USER, {**ANSWER, "tool_calls": empty or None}, tools=empty or None, functions=empty or [])).row
    assert (row.tools, row.messages[1]) == ((), ANSWER)
