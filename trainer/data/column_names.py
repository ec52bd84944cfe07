"""Columns under the names that other tools and data sets use, made into those of the documented formats.

A name is read as another one only where nothing else in the row could be meant. Two columns that could both be the
prompt, or both the answer, are a fault.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from trainer.data.faults import FaultKind, LineFaults, WarningKind, shown
from trainer.data.json_text import json_value
from trainer.row_formats import ANSWERS, DIALOGUES, KNOWN, QUESTIONS, as_label, known_name

_SYNONYMS: Final[Mapping[str, str]] = {
    "system_prompt": "system",
    "kto_tag": "label",
    "chosen_response": "chosen",
}
_PAIRS: Final = ("chosen", "rejected")
_OPENAI_PAIRS: Final = ("preferred_output", "non_preferred_output")
SEEN: Final = ("context", "choices", "options", "passage", "suffix")
_TEXTS: Final = ("prompt", "completion", "instruction", "input", "output", "text", "system", *_PAIRS)


def standard_columns(row: Mapping[str, Any], faults: LineFaults) -> dict[str, Any]:
    """Return the columns of ``row`` under the names of the documented formats; valid only without a fault."""
    columns = dict(row)
    for name in row:
        if (known := known_name(name)) in KNOWN and known != name:
            _rename(columns, name, known, faults)
    if "kto_tag" in columns and as_label(columns["kto_tag"]) is None:
        faults.add(FaultKind.BAD_LABEL, "kto_tag", shown(columns["kto_tag"]), "true (a good answer) or false")
    for name in _SYNONYMS.keys() & columns.keys():
        _rename(columns, name, _SYNONYMS[name], faults)
    _name_rejected(columns, faults)
    if not faults and not any(_has(columns, name) for name in (*DIALOGUES, *_OPENAI_PAIRS)):
        _name_prompt_and_answer(columns, faults)
    for name in _TEXTS:
        if type(columns.get(name)) is int:
            faults.warn(WarningKind.CONVERTED, f"whole numbers in the column {name} are read as text")
            columns[name] = str(columns[name])
    return columns


def _has(columns: Mapping[str, Any], name: str) -> bool:
    value = columns.get(name, "")
    return bool(value.strip()) if isinstance(value, str) else value not in ([], {})


def _rename(columns: dict[str, Any], name: str, to: str, faults: LineFaults) -> None:
    """Move a column to its documented name, unless another value is there, which is a fault."""
    if not _has(columns, name):
        columns.pop(name)
    elif _has(columns, to) and columns[to] != columns[name]:
        _add_ambiguity((name, to), f"both are read as {to}", faults)
    else:
        columns[to] = columns.pop(name)
        faults.warn(WarningKind.CONVERTED, f"the column {name[:80]!r} is read as {to}")


def _add_ambiguity(names: Iterable[str], why: str, faults: LineFaults) -> None:
    found = f"the columns {' and '.join(shown(name) for name in names)}: {why}"
    needed = "one of them: rename it as a documented format has it, and remove the other"
    faults.add(FaultKind.AMBIGUOUS_COLUMNS, "", found, needed)


def _name_rejected(columns: dict[str, Any], faults: LineFaults) -> None:
    """Read ms-swift's preference rows: a good dialogue or answer beside ``rejected_response`` or a whole dialogue."""
    stated = [name for name in ("rejected_response", "rejected_messages") if _has(columns, name)]
    if not stated:
        return
    if len(stated) > 1 or _has(columns, "rejected"):
        _add_ambiguity([*stated, "rejected"][:2], "each is a rejected answer", faults)
        return
    (name,) = stated
    rejected = json_value(columns[name])
    key = next((key for key in DIALOGUES if _has(columns, key)), None)
    answers = [answer for answer in ANSWERS if _has(columns, answer)]
    if not _has(columns, "chosen") and key is not None:
        chosen = columns["chosen"] = json_value(columns.pop(key))
        if name == "rejected_response" and isinstance(chosen, list):
            worse = rejected if isinstance(rejected, list) else [{"role": "assistant", "content": rejected}]
            rejected = [*chosen[:-1], *worse]
    elif not _has(columns, "chosen") and len(answers) == 1:
        columns["chosen"] = columns.pop(answers[0])
    columns["rejected"] = rejected
    columns.pop(name)
    faults.warn(WarningKind.CONVERTED, f"{name} is read as the rejected answer to the same prompt")


def _name_prompt_and_answer(columns: dict[str, Any], faults: LineFaults) -> None:
    is_pair = any(name in columns for name in _PAIRS)
    asked = [name for name in QUESTIONS if _has(columns, name)]
    answers = [] if is_pair else [name for name in ANSWERS if _has(columns, name)]
    if not is_pair and _has(columns, "text") and not _is_documented(asked, answers):
        if asked or answers:
            _add_ambiguity(("text", *asked, *answers), "text is all of it, or a part", faults)
        return
    if not asked or not (answers or is_pair):
        return
    question = _question(columns, asked, faults, is_pair=is_pair)
    answer = None if is_pair or question is None else _answer(question, answers, faults)
    if question is None or faults:
        return
    _check_seen(columns, question, asked, faults)
    is_documented = answer == "completion" and question == "prompt"
    if question == "instruction" or (_has(columns, "history") and not is_pair and not is_documented):
        _rename_all(columns, {question: "instruction", answer: "output"}, faults)
    elif (question, answer) != ("input", "output"):
        _rename_all(columns, {question: "prompt", answer: "completion"}, faults)


def _is_documented(asked: list[str], answers: list[str]) -> bool:
    """Whether a row beside whose ``text`` these stand has a format in which ``text`` is a further column."""
    return ("prompt" in asked and "completion" in answers) or "instruction" in asked or {"input"} == {*asked}


def _question(columns: Mapping[str, Any], asked: list[str], faults: LineFaults, *, is_pair: bool) -> str | None:
    """Return the one column that asks, beside which ``input`` may stand; None, and a fault added, for several."""
    if not is_pair and {"instruction", "prompt"} <= {*asked}:
        is_rendered = str(columns["instruction"]).strip() in str(columns["prompt"])  # Alpaca's, made of the others
        asked = [name for name in asked if name != "prompt" or not is_rendered]
    if len(asked) > 1 and asked != ["instruction", "input"]:
        _add_ambiguity(asked, "each may be the prompt", faults)
        return None
    return asked[0]


def _answer(question: str, answers: list[str], faults: LineFaults) -> str | None:
    """Return the one column that answers: that of the documented format, or the only one. None, and a fault added."""
    documented = {"prompt": "completion", "instruction": "output", "input": "output"}.get(question)
    if documented in answers and not {"completion", "output"} <= {*answers}:
        return documented
    if len(answers) > 1:
        _add_ambiguity(answers, "each may be the answer", faults)
        return None
    return answers[0]


def _check_seen(columns: dict[str, Any], question: str, asked: list[str], faults: LineFaults) -> None:
    """Add a fault for each column that the model would have to see beside the question, in a place that is not known.

    The context of an instruction is its ``input``: so are Dolly's rows meant.
    """
    if _has(columns, "context") and question == "instruction" and "input" not in asked:
        _rename(columns, "context", "input", faults)
    for name in SEEN:
        if _has(columns, name):
            found = f"{shown(columns[name])} beside {question}: where the model would see it is not known"
            needed = "instruction, input and output; or its text in that of the prompt; or no such column"
            faults.add(FaultKind.AMBIGUOUS_COLUMNS, name, found, needed)


def _rename_all(columns: dict[str, Any], names: Mapping[str | None, str], faults: LineFaults) -> None:
    for name, to in names.items():
        if name is not None and name != to:
            columns.pop(to, None)  # blank, or it would be a candidate itself
            _rename(columns, name, to, faults)
