"""Rows of every format, with the noise of real exports, are read as the rows that they mean."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.data.conftest import Read
from tests.trainer.data.talks import (
    TEXTS,
    VALUES,
    Json,
    Talk,
    assistant,
    chat_row,
    legacy_row,
    padded,
    plain_talks,
    sharegpt_messages,
    talks,
    tool_talks,
    user,
    with_object_arguments,
    with_response_keys,
    without_ids,
)
from trainer.data.faults import WarningKind
from trainer.data.rows import (
    Conversation,
    Judged,
    PlainJudged,
    PlainPreference,
    PlainText,
    Preference,
    Row,
)
from trainer.data.training_file import ReadLine


def drawn(**strategies: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Run a test with drawn values; a busy machine may take longer than hypothesis expects."""
    return lambda test: settings(deadline=None, max_examples=60)(given(**strategies)(test))


def conversation(talk: Talk, trained: Sequence[bool] | None = None) -> Conversation:
    answers = tuple(message["role"] == "assistant" for message in talk.messages)
    return Conversation(talk.messages, answers if trained is None else tuple(trained), talk.tools)


def warned(line: ReadLine) -> set[WarningKind]:
    return {warning.kind for warning in line.warnings}


@drawn(talk=talks)
def test_a_request_is_read_as_it_is(read: Read, talk: Talk) -> None:
    line = read(chat_row(talk))
    assert line.row == conversation(talk)
    assert line.warnings == ()


@drawn(talk=talks, data=st.data())
def test_null_and_further_columns_change_nothing(read: Read, talk: Talk, data: st.DataObject) -> None:
    assert read(data.draw(padded(chat_row(talk)))).row == conversation(talk)


@drawn(talk=talks)
def test_answers_as_openai_s_client_dumps_them(read: Read, talk: Talk) -> None:
    row = {**chat_row(talk), "messages": [with_response_keys(message) for message in talk.messages]}
    assert read(row).row == conversation(talk)


@drawn(talk=tool_talks())
def test_arguments_as_padded_objects_and_calls_without_ids(read: Read, talk: Talk) -> None:
    messages = [with_object_arguments(without_ids(message)) for message in talk.messages]
    line = read({**chat_row(talk), "messages": messages})
    assert line.row == conversation(talk)
    assert {WarningKind.MADE_ID, WarningKind.NULL_VALUE} <= warned(line)


@drawn(talk=tool_talks(), is_bare=st.booleans(), is_text=st.booleans())
def test_tools_as_json_text_and_as_bare_functions(read: Read, talk: Talk, is_bare: bool, is_text: bool) -> None:
    tools: Any = [tool["function"] if is_bare else tool for tool in talk.tools]
    assert read({"messages": list(talk.messages), "tools": json.dumps(tools) if is_text else tools}).row == (
        conversation(talk)
    )


@drawn(talk=tool_talks(most_calls=1))
def test_retired_functions_are_tools(read: Read, talk: Talk) -> None:
    line = read(legacy_row(talk))
    assert line.row == conversation(talk)
    assert {WarningKind.CONVERTED, WarningKind.MADE_ID} == warned(line)


@drawn(talk=st.one_of(plain_talks(), tool_talks(most_calls=1)), data=st.data())
def test_sharegpt_is_a_chat(read: Read, talk: Talk, data: st.DataObject) -> None:
    row: Json = {"conversations": data.draw(sharegpt_messages(talk.messages))}
    if talk.tools:
        row["tools"] = json.dumps([tool["function"] for tool in talk.tools])
    if "system" in (first := row["conversations"][0])["from"] and data.draw(st.booleans()):
        row = {**row, "conversations": row["conversations"][1:], "system": first["value"]}
    assert read(row).row == conversation(talk)


@drawn(talk=plain_talks(), weights=st.data())
def test_weights_are_numbers_or_booleans(read: Read, talk: Talk, weights: st.DataObject) -> None:
    messages, trained = [], []
    last = len(talk.messages) - 1
    for index, message in enumerate(talk.messages):
        is_trained = index == last or weights.draw(st.booleans())
        spellings = [1, 1.0, True, None] if is_trained else [0, 0.0, False]
        is_answer = message["role"] == "assistant"
        messages.append({**message, "weight": weights.draw(st.sampled_from(spellings))} if is_answer else message)
        trained.append(is_answer and is_trained)
    assert read({"messages": messages}).row == conversation(talk, trained)


@drawn(
    talk=st.one_of(plain_talks(), tool_talks(most_calls=1)),
    data=st.data(),
    column=st.sampled_from(["conversations", "conversation", "messages"]),
)
def test_keys_of_sharegpt_and_openai_may_be_mixed(read: Read, talk: Talk, data: st.DataObject, column: str) -> None:
    messages: list[Json] = []
    for message in data.draw(sharegpt_messages(talk.messages)):
        role, content = message.pop("from"), message.pop("value")
        spellings: list[Json] = [
            {"from": role, "content": content},
            {"from": role, "value": content, "content": content},
            {"from": role, "value": content, "content": ""},
        ]
        if column != "messages":
            spellings += [{"role": role, "value": content}, {"role": role, "from": role, "value": content}]
        messages.append({**message, **data.draw(st.sampled_from(spellings))})
    row: Json = {column: messages, "tools": list(talk.tools)}
    assert read(row).row == conversation(talk)


@drawn(talk=st.one_of(plain_talks(), tool_talks()))
def test_lists_as_pandas_writes_them_into_csv(read: Read, talk: Talk) -> None:
    wanted = conversation(talk)
    assert read({"messages": repr(list(talk.messages)), "tools": repr(list(talk.tools))}).row == wanted
    *prompt, answer = talk.messages
    row = read({"prompt": repr(prompt), "completion": repr([answer]), "tools": repr(list(talk.tools))}).row
    assert (row.messages, row.tools) == (wanted.messages, wanted.tools)


@drawn(talk=plain_talks(), key=st.sampled_from(["reasoning", "reasoning_content", "thinking"]), thought=TEXTS)
def test_reasoning_has_several_names(read: Read, talk: Talk, key: str, thought: str) -> None:
    *before, last = talk.messages
    row = read({"messages": [*before, {**last, key: thought}]}).row
    assert row.messages[-1] == {**last, "reasoning_content": thought}
    both = {**last, "reasoning": thought, "reasoning_content": thought}
    assert read({"messages": [*before, both]}).row == row


@drawn(messages=st.lists(st.sampled_from(["system", "developer", "user"]), min_size=1, max_size=4), order=st.data())
def test_any_order_of_roles_is_left_to_the_template(read: Read, messages: list[str], order: st.DataObject) -> None:
    roles = [*order.draw(st.permutations([*messages, "assistant"])), "assistant"]
    talk = Talk(tuple({"role": role, "content": f"{number} {role}"} for number, role in enumerate(roles)))
    trained = [role == "assistant" and number > 0 for number, role in enumerate(roles)]
    line = read(chat_row(talk))
    assert line.row == conversation(talk, trained)
    assert warned(line) == ({WarningKind.LEFT_OUT} if roles[0] == "assistant" else set())


@drawn(talk=plain_talks(), rest=st.lists(st.sampled_from(["user", "system"]), min_size=1, max_size=2))
def test_messages_behind_the_last_answer_are_left_out(read: Read, talk: Talk, rest: list[str]) -> None:
    line = read({"messages": [*talk.messages, *({"role": role, "content": "later"} for role in rest)]})
    assert line.row == conversation(talk)
    assert warned(line) == {WarningKind.LEFT_OUT}


@drawn(talk=plain_talks())
def test_a_refusal_is_the_answer(read: Read, talk: Talk) -> None:
    *before, last = talk.messages
    line = read({"messages": [*before, {"role": "assistant", "content": None, "refusal": last["content"]}]})
    assert line.row == conversation(talk)
    assert warned(line) == {WarningKind.CONVERTED}


@drawn(talk=plain_talks(), extra=st.dictionaries(st.sampled_from(["text", "id", "prompt_id"]), VALUES))
def test_alpaca_has_system_and_history(read: Read, talk: Talk, extra: Json) -> None:
    messages = list(talk.messages)
    system = {"system": messages.pop(0)["content"]} if messages[0]["role"] == "system" else {}
    *turns, asked, answered = messages
    history = [[turns[at]["content"], turns[at + 1]["content"]] for at in range(0, len(turns), 2)]
    row = {"instruction": asked["content"], "input": "", "output": answered["content"], "history": history}
    assert read({**row, **system, **extra}).row == conversation(talk)


@drawn(talk=talks, data=st.data())
def test_prompt_and_completion_as_messages_train_the_completion_alone(
    read: Read, talk: Talk, data: st.DataObject
) -> None:
    starts = [index for index, message in enumerate(talk.messages) if message["role"] == "assistant" and index]
    at = data.draw(st.sampled_from(starts))
    row = {"prompt": list(talk.messages[:at]), "completion": list(talk.messages[at:]), "tools": list(talk.tools)}
    trained = [index >= at and message["role"] == "assistant" for index, message in enumerate(talk.messages)]
    assert read(row).row == conversation(talk, trained)


@drawn(text=TEXTS, row=st.sampled_from([{}, {"prompt": ""}, {"prompt": None}]))
def test_a_completion_without_prompt_is_plain_text(read: Read, text: str, row: Json) -> None:
    line = read({**row, "completion": text})
    assert line.row == PlainText("", text) == read({"text": text}).row
    assert WarningKind.PLAIN_TEXT in warned(line)
    assert read({**row, "completion": text, "label": True}).row == PlainJudged("", text, good=True)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Preference, Json, Json]:
    """Draw a preference with its messages, the better and the worse answer."""
    talk = draw(talks)
    *prompt, better = talk.messages
    worse = assistant(draw(TEXTS.filter(lambda text: text != better["content"])))
    return Preference(tuple(prompt), better, worse, talk.tools), better, worse


@drawn(pair=pairs())
def test_all_spellings_of_a_preference_are_one(read: Read, pair: tuple[Preference, Json, Json]) -> None:
    wanted, better, worse = pair
    prompt, tools = list(wanted.prompt), {"tools": list(wanted.tools)} if wanted.tools else {}
    openai = {"input": {"messages": prompt, **tools}, "preferred_output": [better], "non_preferred_output": [worse]}
    rows: list[Json] = [
        openai,
        {"prompt": prompt, "chosen": [better], "rejected": [worse], **tools},
        {"prompt": prompt, "chosen": better, "rejected": worse, **tools},
        {"prompt": prompt, "chosen": better["content"], "rejected": worse["content"], **tools},
        {"chosen": [*prompt, better], "rejected": [*prompt, worse], **tools},
        {"prompt": prompt, "chosen": [*prompt, better], "rejected": [*prompt, worse], **tools},
        {"conversations": prompt, "chosen": better, "rejected": worse, **tools},
        {"messages": prompt, "chosen": [better], "rejected": [worse], **tools},
    ]
    if prompt[-1]["role"] == "user":
        asked = prompt[-1]["content"]
        answers = {"chosen": [*prompt, better], "rejected": [*prompt, worse]}
        rows.append({"prompt": asked, "messages": answers["chosen"], "score_chosen": 9.5, **answers, **tools})
    for row in rows:
        assert read(row).row == wanted, row


@drawn(asked=TEXTS, more=TEXTS, system=TEXTS, better=TEXTS, worse=TEXTS)
def test_preferences_as_text_are_chats(read: Read, asked: str, more: str, system: str, better: str, worse: str) -> None:
    answers = {"chosen": better, "rejected": f"{worse} {better}"}
    wanted = (assistant(better), assistant(f"{worse} {better}"))
    assert read({"prompt": asked, **answers}).row == Preference((user(asked),), *wanted)
    below = Preference(({"role": "system", "content": system}, user(f"{asked}\n\n{more}")), *wanted)
    assert read({"instruction": asked, "input": more, "system": system, **answers}).row == below
    assert read({"question": asked, "system": system, **answers}).row == Preference(
        ({"role": "system", "content": system}, user(asked)), *wanted
    )


@pytest.mark.parametrize(
    ("chosen", "rejected", "row"),
    [
        ("The sky is blue.", "The sky is green.", PlainPreference("The sky is", " blue.", " green.")),
        ("It is in Oslo.", "It is in Omaha.", PlainPreference("It is in", " Oslo.", " Omaha.")),
        ("Yes", "No", PlainPreference("", "Yes", "No")),
        ("Yes", "Yes indeed", PlainPreference("", "Yes", "Yes indeed")),
        ("Q: 1+1?\n\nA: 2", "Q: 1+1?\n\nA: 3", PlainPreference("Q: 1+1?\n\nA:", " 2", " 3")),
    ],
)
def test_an_implicit_prompt_of_text_ends_with_a_word(read: Read, chosen: str, rejected: str, row: Row) -> None:
    line = read({"chosen": chosen, "rejected": rejected})
    assert line.row == row
    assert warned(line) == {WarningKind.PLAIN_TEXT}


@drawn(talk=talks, label=st.booleans(), as_text=st.booleans())
def test_all_spellings_of_a_judged_answer_are_one(read: Read, talk: Talk, label: bool, as_text: bool) -> None:
    *prompt, answer = talk.messages
    wanted = Judged(tuple(prompt), answer, label, talk.tools)
    stated = {"label": str(label) if as_text else label, **({"tools": list(talk.tools)} if talk.tools else {})}
    assert read({"messages": list(talk.messages), **stated}).row == wanted
    assert read({"prompt": prompt, "completion": [answer], **stated}).row == wanted
    assert read({"conversations": list(talk.messages), **stated}).row == wanted


@drawn(talk=plain_talks(), label=st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), TEXTS))
def test_a_label_that_is_no_judgement_is_a_further_column(read: Read, talk: Talk, label: Any) -> None:
    if str(label).strip().lower() not in ("true", "false"):
        assert read({**chat_row(talk), "label": label}).row == conversation(talk)
