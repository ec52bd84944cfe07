"""Reads rows whose answers are drawn: tasks of reinforcement training, and questions to a teacher."""

from collections.abc import Mapping
from typing import Any, Final

from trainer.data.column_names import SEEN
from trainer.data.dialogues import pop_dialogue, pop_prompt
from trainer.data.faults import FaultKind, LineFaults, WarningKind, shown
from trainer.data.rows import Message, Row, Task, Tool
from trainer.data.tools import pop_tools
from trainer.row_formats import ANSWERS, DIALOGUES, QUESTIONS

_PROMPTS: Final = ("prompt",)
_LEFT_OUT: Final = "the answer of a row is left out: the teacher gives its own"


def read_task(value: Mapping[str, Any], faults: LineFaults) -> Row | None:
    """Read ``messages`` or ``prompt``; every column is part of the item that graders read."""
    prompt, tools, where = _pop_asked(dict(value), _PROMPTS, faults)
    if prompt and not faults and prompt[-1]["role"] == "assistant":
        found = "the assistant last: there is nothing left to answer"
        needed = "the user last; and the answer, where the grader needs it, in a column such as reference_answer"
        faults.add(FaultKind.ROLE_ORDER, where, found, needed)
    return None if faults else Task(tuple(prompt), {**value, "messages": prompt}, tools)


def read_question(columns: dict[str, Any], faults: LineFaults) -> Row | None:
    """Read ``messages`` or a column that asks. An answer, last of the messages or in a column, is left out."""
    stated = [name for name in QUESTIONS if columns.get(name)]
    if columns.keys().isdisjoint(DIALOGUES):
        if len(stated) > 1 and stated != ["instruction", "input"]:
            found = f"the columns {' and '.join(stated)}: each may be the prompt"
            faults.add(FaultKind.AMBIGUOUS_COLUMNS, "", found, "one of them")
        for name in SEEN:
            if columns.get(name):
                found = f"{shown(columns[name])}: where the model would see it is not known"
                faults.add(FaultKind.AMBIGUOUS_COLUMNS, name, found, "its text in that of the prompt")
    prompt, tools, where = _pop_asked(columns, QUESTIONS, faults)
    answers = [name for name in ANSWERS if columns.pop(name, None)]
    end = next((place for place in range(len(prompt), 0, -1) if prompt[place - 1]["role"] != "assistant"), 0)
    if answers or end < len(prompt):
        faults.warn(WarningKind.LEFT_OUT, _LEFT_OUT)
    if not end and not faults:
        faults.add(FaultKind.NO_MESSAGES, where, "answers alone", "a question before them")
    item = {"messages": prompt[:end], **({"tools": list(tools)} if tools else {})}
    return None if faults else Task(tuple(prompt[:end]), item, tools)


def _pop_asked(
    columns: dict[str, Any], keys: tuple[str, ...], faults: LineFaults
) -> tuple[list[dict[str, Any]], tuple[Tool, ...], str]:
    """Remove what is asked; return its messages, its tools and its place in the row."""
    if not columns.keys().isdisjoint(DIALOGUES):
        chat = pop_dialogue(columns, "", faults)
        return chat.messages, chat.tools, chat.where
    tools = pop_tools(columns, "", faults)
    where = next((key for key in keys if key in columns), keys[0])
    return pop_prompt(columns, keys, tools, faults), tools, where


def with_prompt(prompt: tuple[Message, ...], asked: tuple[Message, ...]) -> tuple[Message, ...]:
    """Return the messages ``asked`` behind ``prompt``; a system message among them comes before its examples.

    Raises:
        ValueError: both begin with a system message.
    """
    own = asked[:1] if is_system(asked) else ()
    if own and is_system(prompt):
        raise ValueError("a system message, beside that of the prompt")
    return (*own, *prompt, *asked[len(own) :])


def is_system(messages: tuple[Message, ...]) -> bool:
    """Whether the messages begin with a system message."""
    return bool(messages) and messages[0]["role"] in ("system", "developer")
