"""Tasks of reinforcement training, and rankings of reward training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from tests.trainer.data.conftest import Write
from trainer.data.faults import FaultKind
from trainer.data.file_report import inspect_file
from trainer.data.rows import Ranking, Task
from trainer.data.tasks import with_prompt
from trainer.data.training_file import ReadLine, read_file
from trainer.row_formats import RowFormat
from trainer.training_method import TrainingMethod

ASKED = {"role": "user", "content": "What is 2 + 3?"}


def read(write: Write, row: dict[str, Any], method: TrainingMethod) -> ReadLine:
    (line,) = read_file(write([row]), method)
    return line


def kinds(line: ReadLine) -> Sequence[FaultKind]:
    return [fault.kind for fault in line.faults]


def test_every_column_of_a_task_is_the_grader_s(write: Write) -> None:
    row = {"messages": [ASKED], "reference_answer": {"value": 5}, "answer": "five", "label": "easy"}
    line = read(write, row, TrainingMethod.REINFORCEMENT)
    assert line.faults == line.warnings == ()
    assert line.row == Task((ASKED,), row)


def test_a_prompt_of_text_is_a_user_s_message_and_graders_find_it_among_the_messages(write: Write) -> None:
    line = read(write, {"prompt": ASKED["content"], "solution": "5"}, TrainingMethod.REINFORCEMENT)
    assert isinstance(line.row, Task)
    assert line.row.prompt == (ASKED,)
    assert line.row.item == {"prompt": ASKED["content"], "solution": "5", "messages": [ASKED]}


def test_tools_of_a_task_are_offered(write: Write) -> None:
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
    line = read(write, {"messages": [ASKED], "tools": [tool]}, TrainingMethod.REINFORCEMENT)
    assert isinstance(line.row, Task)
    assert [each["function"]["name"] for each in line.row.tools] == ["add"]


def test_a_task_with_its_answer_is_refused(write: Write) -> None:
    row = {"messages": [ASKED, {"role": "assistant", "content": "5"}]}
    line = read(write, row, TrainingMethod.REINFORCEMENT)
    assert kinds(line) == [FaultKind.ROLE_ORDER]
    assert "reference_answer" in line.faults[0].needed


@pytest.mark.parametrize("row", [{"reference": "5"}, {"messages": []}, {"prompt": " "}])
def test_a_task_without_a_prompt_is_refused(write: Write, row: dict[str, Any]) -> None:
    assert read(write, row, TrainingMethod.REINFORCEMENT).faults


def test_a_file_of_tasks_is_inspected_as_such(write: Write) -> None:
    rows = [{"messages": [{"role": "user", "content": f"What is {n} + 1?"}], "sum": n + 1} for n in range(120)]
    report = inspect_file(write(rows), TrainingMethod.REINFORCEMENT)
    assert (report.ok, report.rows, report.warnings) == (True, 120, [])


@pytest.mark.parametrize("asked", [{"messages": [ASKED]}, {"prompt": ASKED["content"]}])
@pytest.mark.parametrize("is_text", [True, False])
def test_a_ranking_has_its_answers_best_first(write: Write, asked: dict[str, Any], *, is_text: bool) -> None:
    answers = [{"role": "assistant", "content": text} for text in ("5", "It is 5.", "No idea.")]
    row = {**asked, "ranking": [each["content"] if is_text else each for each in answers]}
    line = read(write, row, TrainingMethod.REWARD)
    assert line.faults == ()
    assert line.row == Ranking((ASKED,), tuple(answers))


def test_a_ranking_as_text_of_a_table_is_read(write: Write) -> None:
    line = read(write, {"prompt": ASKED["content"], "ranking": json.dumps(["5", "6"])}, TrainingMethod.REWARD)
    assert isinstance(line.row, Ranking)
    assert [answer["content"] for answer in line.row.answers] == ["5", "6"]


@pytest.mark.parametrize(
    "ranking", [["5"], [], ["5", "5"], ["5", "6", "5"], [5, 6], ["5", " "], [str(n) for n in range(17)]]
)
def test_a_ranking_that_ranks_nothing_is_refused(write: Write, ranking: list[Any]) -> None:
    assert read(write, {"messages": [ASKED], "ranking": ranking}, TrainingMethod.REWARD).faults


def test_pairs_of_plain_text_are_refused_for_a_reward_model(write: Write) -> None:
    line = read(write, {"chosen": "a good text", "rejected": "a bad text"}, TrainingMethod.REWARD)
    assert kinds(line) == [FaultKind.MISSING_KEY]


DISTILL = TrainingMethod.DISTILL


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [ASKED, {"role": "assistant", "content": "5"}]},
        {"prompt": ASKED["content"], "completion": "5"},
        {"question": ASKED["content"], "answer": "5"},
        {"conversations": [{"from": "human", "value": ASKED["content"]}, {"from": "gpt", "value": "5"}]},
    ],
)
def test_the_answer_of_a_question_is_left_out_with_a_warning(write: Write, row: dict[str, Any]) -> None:
    line = read(write, row, DISTILL)
    assert line.row == Task((ASKED,), {"messages": [ASKED]})
    assert "left_out" in {warning.kind for warning in line.warnings}


@pytest.mark.parametrize("key", ["prompt", "question", "instruction"])
def test_a_question_needs_no_answer(write: Write, key: str) -> None:
    line = read(write, {key: ASKED["content"]}, DISTILL)
    assert (line.form, line.row, line.faults) == (RowFormat.QUESTION, Task((ASKED,), {"messages": [ASKED]}), ())


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"messages": [{"role": "assistant", "content": "5"}]}, FaultKind.NO_MESSAGES),
        ({"prompt": "2 + 3?", "question": "3 + 3?"}, FaultKind.AMBIGUOUS_COLUMNS),
        ({"prompt": "How much is it?", "context": "It is 5."}, FaultKind.AMBIGUOUS_COLUMNS),
        ({"text": "2 + 3 is 5."}, FaultKind.EMPTY_PROMPT),
    ],
)
def test_what_is_no_question_is_refused(write: Write, row: dict[str, Any], kind: FaultKind) -> None:
    assert kinds(read(write, row, DISTILL)) == [kind]


def test_a_prompt_stands_before_what_is_asked_and_behind_its_system_message() -> None:
    system, shot = {"role": "system", "content": "Be brief."}, ({"role": "user", "content": "1 + 1?"},)
    assert with_prompt((system, *shot), (ASKED,)) == (system, *shot, ASKED)
    assert with_prompt(shot, (system, ASKED)) == (system, *shot, ASKED)
    with pytest.raises(ValueError, match="a system message"):
        with_prompt((system,), (system, ASKED))
