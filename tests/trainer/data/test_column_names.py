"""Columns under other names mean what they would under the documented ones, or are refused with the candidates."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.data.conftest import Read
from tests.trainer.data.faulty_rows import ANSWER, TOOL, USER
from tests.trainer.data.talks import TEXTS, Json, Talk, assistant, chat_row, plain_talks, talks, tool_talks, user
from trainer.data.faults import FaultKind, WarningKind
from trainer.data.rows import Conversation, Judged, PlainText, Preference
from trainer.data.training_file import read_file
from trainer.row_formats import ANSWERS, QUESTIONS

SPELL = st.sampled_from([str.lower, str.upper, str.title, lambda name: f" {name} "])
PAIRS = [(question, answer) for question in QUESTIONS for answer in ANSWERS]


def pair(asked: str, answered: str) -> Conversation:
    return Conversation((user(asked), assistant(answered)), (False, True))


@settings(deadline=None, max_examples=60)
@given(names=st.sampled_from(PAIRS), spell=SPELL, asked=TEXTS, answered=TEXTS)
def test_one_question_and_one_answer_are_prompt_and_completion(
    read: Read, names: tuple[str, str], spell: Any, asked: str, answered: str
) -> None:
    line = read({spell(names[0]): asked, spell(names[1]): answered})
    assert line.row == pair(asked, answered)
    documented = {("prompt", "completion"), ("instruction", "output"), ("input", "output")}
    if names not in documented:
        assert WarningKind.CONVERTED in {warning.kind for warning in line.warnings}


@settings(deadline=None, max_examples=30)
@given(name=st.sampled_from(["question", "query", "input"]), asked=TEXTS, better=TEXTS)
def test_a_preference_has_its_prompt_under_any_name(read: Read, name: str, asked: str, better: str) -> None:
    row = {name: asked, "chosen": better, "rejected": f"not {better}"}
    wanted = Preference((user(asked),), assistant(better), assistant(f"not {better}"))
    assert read(row).row == wanted
    assert read({name: asked, "response": better, "rejected_response": f"not {better}"}).row == wanted
    assert read({name: asked, "chosen_response": better, "rejected_response": f"not {better}"}).row == wanted


@settings(deadline=None, max_examples=30)
@given(talk=talks, worse=TEXTS, as_text=st.booleans())
def test_swift_s_preferences_are_pairs(read: Read, talk: Talk, worse: str, as_text: bool) -> None:
    *prompt, better = talk.messages
    wanted = Preference(tuple(prompt), better, assistant(f"not {worse}"), talk.tools)
    if wanted.preferred == wanted.rejected:
        return
    row = chat_row(talk)
    if as_text:
        row = {key: json.dumps(value) for key, value in row.items()}
    rejected = [*prompt, wanted.rejected]
    assert read({**row, "rejected_response": f"not {worse}"}).row == wanted
    assert read({**row, "rejected_response": [wanted.rejected]}).row == wanted
    assert read({**row, "rejected_messages": json.dumps(rejected) if as_text else rejected}).row == wanted


@settings(deadline=None, max_examples=30)
@given(talk=tool_talks(), system=TEXTS)
def test_a_system_prompt_is_the_system_message(read: Read, talk: Talk, system: str) -> None:
    wanted = ({"role": "system", "content": system}, *talk.messages)
    assert read({**chat_row(talk), "system_prompt": system, "system": None}).row.messages == wanted
    assert read({**chat_row(talk), "System Prompt": system, "system": system}).row.messages == wanted


@pytest.mark.parametrize("label", [True, False, "true", "False"])
@pytest.mark.parametrize("name", ["kto_tag", "label", "Label"])
def test_a_judgement_has_two_names_and_stands_in_alpaca_rows_too(read: Read, name: str, label: Any) -> None:
    is_good = str(label).lower() == "true"
    judged = Judged((user("a"),), assistant("b"), is_good)
    assert read({"instruction": "a", "input": "", "output": "b", name: label}).row == judged
    assert read({"question": "a", "answer": "b", name: label}).row == judged
    assert read({"messages": [user("a"), assistant("b")], name: label}).row == judged
    earlier = read({"instruction": "a", "output": "b", "history": [["c", "d"]], name: label}).row
    assert earlier == Judged((user("c"), assistant("d"), user("a")), assistant("b"), is_good)


def test_a_label_of_a_class_is_ignored_with_a_warning(read: Read) -> None:
    line = read({"instruction": "a", "output": "b", "label": 1})
    assert line.row == pair("a", "b")
    assert [warning.kind for warning in line.warnings] == [WarningKind.IGNORED_KEY]


def test_the_context_of_an_instruction_is_its_input(read: Read) -> None:
    line = read({"instruction": "Where?", "context": "It is in Oslo.", "response": "Oslo", "category": "qa"})
    assert line.row == pair("Where?\n\nIt is in Oslo.", "Oslo")
    assert read({"instruction": "Where?", "context": "", "response": "Oslo"}).row == pair("Where?", "Oslo")


@settings(deadline=None, max_examples=30)
@given(talk=plain_talks(), worse=TEXTS, names=st.sampled_from([("query", "response"), ("instruction", "output")]))
def test_history_is_earlier_turns(read: Read, talk: Talk, worse: str, names: tuple[str, str]) -> None:
    messages = list(talk.messages)
    system = {"system": messages.pop(0)["content"]} if messages[0]["role"] == "system" else {}
    *turns, asked, answered = (message["content"] for message in messages)
    row = {**system, "history": [turns[at : at + 2] for at in range(0, len(turns), 2)]}
    question, answer = names
    trained = tuple(message["role"] == "assistant" for message in talk.messages)
    assert read({**row, question: asked, answer: answered}).row == Conversation(talk.messages, trained)
    documented = read({**row, "prompt": asked, "completion": answered}).row
    assert documented == Conversation(talk.messages, (*(False for _ in trained[1:]), True))
    pair = read({**row, "prompt": asked, "chosen": answered, "rejected": f"{worse} {answered}"}).row
    assert pair.prompt == talk.messages[:-1]


def test_two_lists_of_messages_may_be_the_same(read: Read) -> None:
    shared = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    line = read({"messages": [user("a"), assistant("b")], "conversations": json.dumps(shared), "conversation": "id 7"})
    assert (line.row, len(line.warnings)) == (Conversation((user("a"), assistant("b")), (False, True)), 1)


@settings(deadline=None, max_examples=30)
@given(talk=tool_talks())
def test_messages_may_be_an_object_of_lists(read: Read, talk: Talk) -> None:
    keys = sorted({key for message in talk.messages for key in message})
    columns = {key: [message.get(key) for message in talk.messages] for key in keys}
    assert read({"messages": columns, "tools": list(talk.tools)}).row == read(chat_row(talk)).row


def test_columns_that_repeat_the_others_are_ignored(read: Read) -> None:
    alpaca = {"instruction": "Add 1 and 2.", "input": "", "output": "3"}
    assert read({**alpaca, "prompt": "### Instruction:\nAdd 1 and 2.\n### Response:"}).row == pair("Add 1 and 2.", "3")
    assert read({**alpaca, "text": "### Instruction: ..."}).row == pair("Add 1 and 2.", "3")
    assert read({"prompt": "a", "completion": "b", "answer": "c", "text": "d"}).row == pair("a", "b")
    assert read({"System": "a", "system_prompt": "a", "prompt": "b", "completion": "c"}).row.messages[0] == (
        {"role": "system", "content": "a"}
    )


@pytest.mark.parametrize(("number", "text"), [(4, "4"), (-12, "-12"), (0, "0"), (10**30, "1" + "0" * 30)])
def test_whole_numbers_are_their_text(read: Read, number: int, text: str) -> None:
    assert read({"prompt": "2 + 2?", "completion": number}).row == pair("2 + 2?", text)
    assert read({"instruction": number, "output": number}).row == pair(text, text)
    assert read({"text": number}).row == PlainText("", text)
    chosen = read({"prompt": "2 + 2?", "chosen": number, "rejected": "no"}).row
    assert chosen == Preference((user("2 + 2?"),), assistant(text), assistant("no"))


@pytest.mark.parametrize(
    "text",
    [
        '[{"from": "Oslo", "to": "Lima"}]',
        '{"from": "Oslo", "value": 3}',
        '{"role": "admin", "name": "a"}',
        '[{"value": 3}] and no more',
        "{'role': 'admin'}",
        "[1, 2]",
        "array([1])",
    ],
)
def test_texts_that_are_no_messages_stay_texts(read: Read, text: str) -> None:
    assert read({"prompt": "Extract.", "completion": text}).row == pair("Extract.", text)
    assert read({"prompt": text, "completion": "a"}).row == pair(text, "a")


@pytest.mark.parametrize("text", ['{"role": "user", "content": "a"}', "{'from': 'human', 'value': 'a'}"])
def test_one_message_may_be_a_text(read: Read, text: str) -> None:
    assert read({"prompt": text, "completion": "b"}).row == pair("a", "b")


@pytest.mark.parametrize(
    "text",
    [
        "[{'role': 'user', 'content': 'a'}\n {'role': 'assistant', 'content': 'b'}]",
        "[{'content': 'a', 'role': 'user'}\n {'content': 'b', 'role': 'assistant'}]",
        "array([{'from': 'human', 'value': 'a'}], dtype=object)",
        '[{"role": "user", "content": "a"',
    ],
)
def test_messages_as_a_text_that_cannot_be_read_are_not_trained_as_it(write, text: str) -> None:
    for row in ({"prompt": text, "completion": "b"}, {"prompt": text, "chosen": "a", "rejected": "b"}):
        (line,) = read_file(write([row]))
        assert {(fault.where, fault.kind) for fault in line.faults} == {("prompt", FaultKind.WRONG_TYPE)}


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        (FaultKind.AMBIGUOUS_COLUMNS, {"question": "a", "query": "b", "answer": "c"}),
        (FaultKind.AMBIGUOUS_COLUMNS, {"prompt": "a", "input": "b", "output": "c"}),
        (FaultKind.AMBIGUOUS_COLUMNS, {"prompt": "a", "input": "b", "completion": "c"}),
        (FaultKind.AMBIGUOUS_COLUMNS, {"instruction": "a", "question": "b", "output": "c"}),
        (FaultKind.AMBIGUOUS_COLUMNS, {"prompt": "a", "response": "b", "answer": "c"}),
        (FaultKind.AMBIGUOUS_COLUMNS, {"question": "a", "output": "b", "answer": "c"}),
        (FaultKind.AMBIGUOUS_COLUMNS, {"instruction": "a", "output": "b", "completion": "c"}),
        (FaultKind.AMBIGUOUS_COLUMNS, {"prompt": "a", "Prompt": "b", "completion": "c"}),
        (FaultKind.AMBIGUOUS_COLUMNS, {"text": "a", "completion": "b"}),
        (FaultKind.AMBIGUOUS_COLUMNS, {"text": "a", "question": "b"}),
        (FaultKind.AMBIGUOUS_COLUMNS, {"prompt": "a", "context": "b", "completion": "c"}),
        (FaultKind.AMBIGUOUS_COLUMNS, {"instruction": "a", "input": "b", "context": "c", "output": "d"}),
        (FaultKind.AMBIGUOUS_COLUMNS, {"question": "a", "context": "b", "chosen": "c", "rejected": "d"}),
        (FaultKind.AMBIGUOUS_COLUMNS, {"prompt": "a", "instruction": "b", "chosen": "c", "rejected": "d"}),
        (FaultKind.AMBIGUOUS_COLUMNS, {"system": "a", "system_prompt": "b", "prompt": "c", "completion": "d"}),
        (FaultKind.AMBIGUOUS_COLUMNS, {"prompt": "a", "completion": "b", "label": False, "kto_tag": True}),
        (FaultKind.AMBIGUOUS_COLUMNS, {"messages": [USER, ANSWER], "rejected_response": "a", "rejected": "b"}),
        (FaultKind.AMBIGUOUS_COLUMNS, {"question": "a", "choices": ["b", "c"], "answer": 1}),
        (FaultKind.EMPTY_ANSWER, {"query": "a", "response": "b", "history": [["c", ""]]}),
        (FaultKind.AMBIGUOUS_COLUMNS, {"messages": [USER, ANSWER], "tools": [TOOL], "functions": [{"name": "g"}]}),
        (FaultKind.AMBIGUOUS_COLUMNS, {"prompt": "a", "suffix": "b", "completion": "c"}),
        (FaultKind.AMBIGUOUS_COLUMNS, {"messages": [USER, ANSWER, USER], "response": "a"}),
        (FaultKind.AMBIGUOUS_COLUMNS, {"messages": [USER, ANSWER], "conversations": [USER, USER, ANSWER]}),
        (FaultKind.AMBIGUOUS_COLUMNS, {"prompt": "a", "completion": '[{"role": "assistant", "content": "b"}]'}),
        (FaultKind.UNSUPPORTED_PART, {"messages": [USER, ANSWER], "documents": [{"title": "a"}]}),
        (FaultKind.UNSUPPORTED_PART, {"prompt": "<image>What?", "completion": "a", "image": "a.png"}),
        (FaultKind.WRONG_TYPE, {"prompt": "a", "completion": {"Decimal": "4.50"}}),
        (FaultKind.BAD_WEIGHT, {"prompt": "a", "completion": "b", "weight": "0.5"}),
        (FaultKind.UNKNOWN_FORMAT, {"prompt": {"0": "a"}, "completion": {"0": "b"}}),
        (FaultKind.BAD_LABEL, {"instruction": "a", "output": "b", "kto_tag": 1}),
        (FaultKind.BAD_LABEL, {"text": "a", "label": False}),
        (FaultKind.SAME_ANSWERS, {"messages": [USER, ANSWER], "rejected_response": ANSWER["content"]}),
        (FaultKind.BAD_WEIGHT, {"messages": [USER, ANSWER], "weight": 0.5}),
        (FaultKind.BAD_WEIGHT, {"prompt": "a", "completion": "b", "train": False}),
        (FaultKind.BAD_WEIGHT, {"messages": [USER, ANSWER], "weight": 0}),
        (FaultKind.WRONG_TYPE, {"prompt": "a", "completion": True}),
        (FaultKind.WRONG_TYPE, {"prompt": "a", "completion": 4.5}),
        (FaultKind.WRONG_TYPE, {"messages": [USER, ANSWER], "chat_template_kwargs": "thinking"}),
    ],
)
def test_a_row_with_two_meanings_is_refused(write, kind: FaultKind, row: Json) -> None:
    (line,) = read_file(write([row]))
    assert [fault.kind for fault in line.faults] == [kind]


def test_the_candidates_are_named(write) -> None:
    (line,) = read_file(write([{"question": "a", "query": "b", "answer": "c"}]))
    assert [str(fault) for fault in line.faults] == [
        "line 1: found the columns 'question' and 'query': each may be the prompt; "
        "needed one of them: rename it as a documented format has it, and remove the other"
    ]
