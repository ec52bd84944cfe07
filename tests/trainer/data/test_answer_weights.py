"""Which answers are trained, in the words of several trainers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.data.conftest import Read
from tests.trainer.data.faulty_rows import ANSWER, USER, chat
from trainer.data.faults import FaultKind, WarningKind
from trainer.data.training_file import read_file

KEYS = ("weight", "loss", "loss_scale", "train", "training")
LENGTH = len(ANSWER["content"])


def spans(*ends: tuple[int, int, bool]) -> list[dict[str, Any]]:
    return [{"begin_offset": begin, "end_offset": end, "train": train} for begin, end, train in ends]


@settings(deadline=None, max_examples=60)
@given(
    stated=st.lists(st.tuples(st.sampled_from([*KEYS, None]), st.booleans()), min_size=1, max_size=4), data=st.data()
)
def test_every_key_means_what_weight_means(read: Read, stated: list[tuple[str | None, bool]], data: Any) -> None:
    messages, trained = [], []
    for key, is_trained in [*stated, (None, True)]:
        spellings = [True, 1, 1.0] if is_trained else [False, 0, 0.0]
        mark = {} if key is None else {key: data.draw(st.sampled_from(spellings))}
        messages += [USER, {**ANSWER, **mark}]
        trained += [False, is_trained or key is None]
    line = read(chat(*messages))
    assert line.row.trained == tuple(trained)
    is_converted = any(key not in ("weight", None) for key, _ in stated)
    assert [warning.kind for warning in line.warnings] == [WarningKind.CONVERTED] * is_converted


@pytest.mark.parametrize(
    ("detail", "is_trained"),
    [
        (spans((0, LENGTH - 1, True)), True),
        (spans((0, LENGTH - 1, False)), False),
        (spans((2, LENGTH - 1, False), (0, 1, False)), False),
    ],
)
def test_spans_of_the_whole_text_are_a_weight(read: Read, detail: Any, is_trained: bool) -> None:
    row = read(chat(USER, {**ANSWER, "train_detail": detail}, USER, ANSWER)).row
    assert row.trained == (False, is_trained, False, True)


@pytest.mark.parametrize(
    ("kind", "messages"),
    [
        *((FaultKind.BAD_WEIGHT, [USER, {**ANSWER, key: 0.5}]) for key in KEYS),
        *((FaultKind.BAD_WEIGHT, [USER, {**ANSWER, key: "false"}]) for key in KEYS),
        *((FaultKind.WEIGHT_ELSEWHERE, [{**USER, key: True}, ANSWER]) for key in KEYS),
        *((FaultKind.NOTHING_TRAINED, [USER, {**ANSWER, key: False}]) for key in KEYS),
        (FaultKind.BAD_WEIGHT, [USER, {**ANSWER, "weight": 1, "train": False}]),
        (FaultKind.BAD_WEIGHT, [USER, {**ANSWER, "train_detail": spans((0, 1, False), (2, LENGTH - 1, True))}]),
        (FaultKind.BAD_WEIGHT, [USER, {**ANSWER, "train_detail": spans((0, 1, False))}]),
        (FaultKind.BAD_WEIGHT, [USER, {**ANSWER, "train_detail": [1]}]),
        (FaultKind.BAD_WEIGHT, [USER, {**ANSWER, "train_detail": "all"}]),
    ],
)
def test_what_is_no_weight_is_refused(write, kind: FaultKind, messages: list[Any]) -> None:
    (line,) = read_file(write([chat(*messages)]))
    assert [fault.kind for fault in line.faults] == [kind]


def test_users_may_state_that_they_are_not_trained(read: Read) -> None:
    assert read(chat({**USER, "train": False, "loss": False, "weight": 0}, ANSWER)).row.trained == (False, True)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "a", "chosen": [{**ANSWER, "weight": 0}], "rejected": "b"},
        {"prompt": "a", "chosen": "b", "rejected": [{**ANSWER, "loss": False}]},
        chat(USER, {**ANSWER, "weight": 0}, label=True),
        {"prompt": "a", "completion": [{**ANSWER, "train": False}], "label": True},
    ],
)
def test_a_weight_of_0_on_a_compared_answer_is_refused(write, row: Any) -> None:
    (line,) = read_file(write([row]))
    assert {FaultKind.NOTHING_TRAINED, FaultKind.NO_ANSWER} & {fault.kind for fault in line.faults}


def test_a_label_judges_one_answer(write) -> None:
    (line,) = read_file(write([{"prompt": "a", "completion": [ANSWER, USER, ANSWER], "label": True}]))
    assert [fault.kind for fault in line.faults] == [FaultKind.NO_ANSWER]
