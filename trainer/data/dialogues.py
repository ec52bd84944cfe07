"""The columns of a row that hold a dialogue or a prompt, in every spelling."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from trainer.data.faults import FaultKind, LineFaults, WarningKind, inside, shown
from trainer.data.json_text import json_list, json_value, messages_in
from trainer.data.messages import MEDIA, check_dialogue, read_messages
from trainer.data.rows import Tool
from trainer.data.tools import pop_tools, schemas
from trainer.row_formats import DIALOGUES, as_label

PLAIN_READ: Final = "rows without a prompt are trained as plain text, without the chat template"
"""The warning about them."""


@dataclass(slots=True)
class RowDialogue:
    """Messages, for each whether it is trained, and the tools; ``where`` is the place of the messages in the row."""

    messages: list[dict[str, Any]]
    trained: list[bool]
    tools: tuple[Tool, ...]
    where: str


def pop_dialogue(columns: dict[str, Any], where: str, faults: LineFaults) -> RowDialogue:
    """Remove the messages, the tools and the system text of the object at ``where``; valid only without a fault."""
    tools = pop_tools(columns, where, faults)
    key = next((key for key in DIALOGUES if key in columns), DIALOGUES[0])
    at = inside(where, key)
    if key not in columns:
        faults.add(FaultKind.MISSING_KEY, at, "nothing", "a list")
        return RowDialogue([], [], tools, at)
    is_sharegpt = key != DIALOGUES[0]
    messages, trained = read_messages(columns.pop(key), schemas(tools), at, faults, is_sharegpt=is_sharegpt)
    _drop_copies(columns, messages, schemas(tools), faults)
    check_dialogue(messages, at, faults)
    system = pop_system(columns, messages, where, faults)
    return RowDialogue([*system, *messages], [*(False for _ in system), *trained], tools, at)


def _drop_copies(
    columns: dict[str, Any], messages: list[dict[str, Any]], known: Mapping[str, Any], faults: LineFaults
) -> None:
    """Remove further lists of messages that are the same as ``messages``; add a fault for any other."""
    for key in DIALOGUES:
        if not isinstance(listed := json_value(columns.get(key)), list) or not listed or faults:
            continue
        other, _ = read_messages(listed, known, key, LineFaults(faults.line), is_sharegpt=True)
        if other != messages:
            needed = "one list of messages, or the same in both"
            faults.add(FaultKind.AMBIGUOUS_COLUMNS, key, "another list of messages", needed)
        columns.pop(key)


def pop_system(
    columns: dict[str, Any], messages: list[dict[str, Any]], where: str, faults: LineFaults
) -> list[dict[str, Any]]:
    """Remove the column ``system``; return its message, unless it is the first of ``messages`` already."""
    text = columns.pop("system", "")
    if text == "" or faults.typed(text, str, inside(where, "system")) is None or not text.strip():
        return []
    if messages and messages[0]["role"] in ("system", "developer"):
        if messages[0]["content"] != text:
            faults.add(FaultKind.REPEATED_KEY, inside(where, "system"), "another system message", "one of the two")
        return []
    return [{"role": "system", "content": text}]


def pop_prompt(
    columns: dict[str, Any], keys: Sequence[str], tools: tuple[Tool, ...], faults: LineFaults
) -> list[dict[str, Any]]:
    """Remove the prompt, as text or as messages, with ``system`` and ``history``; return its messages.

    ``keys`` are those that it may have, the best first. A fault is added if there is none, unless ``system`` alone is
    one. Valid only without a fault.
    """
    key = next((key for key in keys if key in columns), None)
    prompt = "" if key is None else messages_in(columns[key], key, faults)
    if key is not None and not isinstance(prompt, str):
        columns.pop(key)
        messages, _ = read_messages(prompt, schemas(tools), key, faults)
        if not messages and not faults:
            faults.add(FaultKind.NO_MESSAGES, key, "an empty list", "at least one message")
    else:
        messages = _history(columns, faults)
        if (text := _question(columns, key, faults)).strip():
            messages.append({"role": "user", "content": text})
        elif not columns.get("system") and not faults:
            faults.add(FaultKind.EMPTY_PROMPT, key or keys[0], "no text", "some text")
    return [*pop_system(columns, messages, "", faults), *messages]


def _question(columns: dict[str, Any], key: str | None, faults: LineFaults) -> str:
    """Return the text asked: Alpaca's instruction and, below a blank line, its input, where there is one."""
    keys = ["instruction", "input"] if key in ("instruction", None) else [key]
    texts = [columns.pop(each) for each in keys if each in columns and faults.typed(columns[each], str, each)]
    return "\n\n".join(text for text in texts if text.strip())


def check_columns(rest: Mapping[str, Any], where: str, faults: LineFaults) -> None:
    """Warn of each column that was not read and has a value; add a fault for one that the model would have to see."""
    for key, value in rest.items():
        if value in ("", [], {}):
            continue
        at = inside(where, key)
        if key in MEDIA:
            faults.add(FaultKind.UNSUPPORTED_PART, at, shown(value), "text alone")
        elif key == "documents" and isinstance(value, list):
            faults.add(FaultKind.UNSUPPORTED_PART, at, shown(value), "their text in a message")
        elif key == "label":
            faults.warn(WarningKind.IGNORED_KEY, "the column label is ignored: for kto it would be true or false")
        elif key in ("train", "training", "loss") and not where and as_label(value) is False:
            faults.add(FaultKind.BAD_WEIGHT, at, shown(value), "rows that are trained: leave others out")
        elif key == "weight" and not where:
            if value not in (1, "1", "1.0"):
                faults.add(FaultKind.BAD_WEIGHT, at, shown(value), "no weight of rows: leave rows out, or the column")
        else:
            faults.warn(WarningKind.IGNORED_KEY, f"the column {at[:80]!r} is ignored: training does not use it")


def _history(columns: dict[str, Any], faults: LineFaults) -> list[dict[str, Any]]:
    """Return the earlier turns of Alpaca rows: pairs of a question and its answer."""
    messages: list[dict[str, Any]] = []
    for index, pair in enumerate(json_list(columns.pop("history", []), "history", faults)):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            faults.add(FaultKind.WRONG_TYPE, f"history[{index}]", shown(pair), "a question and its answer")
            continue
        for text, kind in zip(pair, (FaultKind.EMPTY_PROMPT, FaultKind.EMPTY_ANSWER), strict=True):
            if not text.strip():
                faults.add(kind, f"history[{index}]", "no text", "a question and its answer")
        messages += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    return messages
