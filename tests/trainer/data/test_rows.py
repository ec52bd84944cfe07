"""Every accepted format becomes the one internal form."""

import pytest

from trainer.data.rows import Conversation, Judged, Preference
from trainer.data.training_file import read_file

USER = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Hello"}


def only(path):
    (line,) = read_file(path)
    assert line.faults == ()
    return line.row


def test_a_chat_row_keeps_its_weights_apart_from_its_messages(write) -> None:
    row = only(write([{"messages": [USER, {**ANSWER, "weight": 0}, USER, ANSWER]}]))
    assert row == Conversation((USER, ANSWER, USER, ANSWER), (False, False, False, True))
    assert row.prompt == (USER, ANSWER, USER)


def test_prompt_and_completion_become_a_chat(write) -> None:
    assert only(write([{"prompt": "Hi", "completion": "Hello"}])) == Conversation((USER, ANSWER), (False, True))


@pytest.mark.parametrize(("row_input", "asked"), [("", "Add"), ("1 and 2", "Add\n\n1 and 2")])
def test_an_alpaca_row_becomes_a_chat_with_its_input_below_the_instruction(write, row_input: str, asked: str) -> None:
    row = only(write([{"instruction": "Add", "input": row_input, "output": "3"}]))
    assert [message["content"] for message in row.messages] == [asked, "3"]


def test_an_openai_preference_row_is_a_prompt_and_two_answers(write) -> None:
    worse = {"role": "assistant", "content": "No"}
    row = only(write([{"input": {"messages": [USER]}, "preferred_output": [ANSWER], "non_preferred_output": [worse]}]))
    assert row == Preference((USER,), ANSWER, worse)


@pytest.mark.parametrize("row", [{"messages": [USER, ANSWER]}, {"prompt": "Hi", "completion": "Hello"}])
def test_a_labelled_row_is_a_prompt_and_a_judged_answer(write, row) -> None:
    assert only(write([{**row, "label": False}])) == Judged((USER,), ANSWER, good=False)


def test_tool_calls_stay_as_a_request_has_them(write) -> None:
    tool = {"type": "function", "function": {"name": "add"}}
    function = {"name": "add", "arguments": '{"a": 1}'}
    asks = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": function}]}
    gets = {"role": "tool", "tool_call_id": "1", "content": "3"}
    row = only(write([{"messages": [USER, asks, gets, ANSWER], "tools": [tool]}]))
    assert row.messages[1] == asks
    assert row.tools == (tool,)


def test_text_parts_are_joined_as_the_server_joins_them(write) -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    row = only(write([{"messages": [{"role": "user", "content": parts}, ANSWER]}]))
    assert row.messages[0]["content"] == "one\ntwo"
