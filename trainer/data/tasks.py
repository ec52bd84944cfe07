"""Reads rows of reinforcement training: a prompt, and whatever the grader needs beside it."""

from collections.abc import Mapping
from typing import Any, Final

from trainer.data.dialogues import pop_dialogue, pop_prompt
from trainer.data.faults import FaultKind, LineFaults
from trainer.data.rows import Row, Task
from trainer.data.tools import pop_tools
from trainer.row_formats import DIALOGUES

_PROMPTS: Final = ("prompt",)


def read_task(value: Mapping[str, Any], faults: LineFaults) -> Row | None:
    """Read ``messages`` or ``prompt``; every column is part of the item that graders read."""
    columns = dict(value)
    if not columns.keys().isdisjoint(DIALOGUES):
        chat = pop_dialogue(columns, "", faults)
        prompt, tools, where = chat.messages, chat.tools, chat.where
    else:
        tools = pop_tools(columns, "", faults)
        prompt, where = pop_prompt(columns, _PROMPTS, tools, faults), _PROMPTS[0]
    if prompt and not faults and prompt[-1]["role"] == "assistant":
        found = "the assistant last: there is nothing left to answer"
        needed = "the user last; and the answer, where the grader needs it, in a column such as reference_answer"
        faults.add(FaultKind.ROLE_ORDER, where, found, needed)
    return None if faults else Task(tuple(prompt), {**value, "messages": prompt}, tools)
