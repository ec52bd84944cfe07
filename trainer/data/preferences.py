"""Reads rows with a better and a worse answer: OpenAI's, and TRL's and LLaMA-Factory's ``chosen`` and ``rejected``.

And rows with a ranking of several answers.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from trainer.data.dialogues import PLAIN_READ, check_columns, pop_dialogue, pop_prompt, pop_system
from trainer.data.faults import FaultKind, LineFaults, WarningKind, shown
from trainer.data.json_text import json_list, json_value, messages_in
from trainer.data.messages import check_dialogue, read_messages
from trainer.data.rows import PlainPreference, Preference, Ranking, Row, Tool
from trainer.data.tools import pop_tools, schemas
from trainer.row_formats import DIALOGUES

_OPENAI: Final = ("preferred_output", "non_preferred_output")
_TRL: Final = ("chosen", "rejected")
MAX_RANKED: Final = 16
"""Answers in one ranking: they make a pair each with each."""
_WORDS: Final = re.compile(r"\s*\S+|\s+")
_PROMPTS: Final = ("prompt", "instruction")


def read_openai_preference(columns: dict[str, Any], faults: LineFaults) -> Row | None:
    """Read ``input``, ``preferred_output`` and ``non_preferred_output``."""
    stated = {"input": json_value(columns["input"])} if "input" in columns else {}
    asked = faults.required(stated, "input", dict, "")
    columns.pop("input", None)
    answers = _pop_answers(columns, _OPENAI, faults)
    if asked is None or faults:
        return None
    asked = dict(asked)
    chat = pop_dialogue(asked, "input", faults)
    check_columns(asked, "input", faults)
    return _pair(chat.messages, answers, chat.tools, _OPENAI, faults)


def read_preference(columns: dict[str, Any], faults: LineFaults) -> Row | None:
    """Read ``chosen`` and ``rejected``, after a prompt of their own or beginning with the same prompt."""
    answers = _pop_answers(columns, _TRL, faults)
    if faults:
        return None
    key = next((key for key in _PROMPTS if columns.get(key)), None)
    if isinstance(columns.get(key or ""), str) and not columns[key or ""].strip():
        key = None
    chosen, rejected = answers
    if isinstance(chosen, str) and isinstance(rejected, str) and key is None and columns.keys().isdisjoint(DIALOGUES):
        return _plain_pair(str(columns.pop("prompt", "")), chosen, rejected, faults)
    shared = _shared(chosen, rejected) if isinstance(chosen, list) and isinstance(rejected, list) else []
    if key is None and not shared and columns.keys().isdisjoint(DIALOGUES):
        needed = "a prompt, or the same messages at the beginning of both answers"
        faults.add(FaultKind.MISSING_KEY, "prompt", "nothing", needed)
        return None
    if key is None and not shared:  # LLaMA-Factory's rows have the prompt as a dialogue
        chat = pop_dialogue(columns, "", faults)
        return None if faults else _pair(chat.messages, answers, chat.tools, _TRL, faults)
    tools = pop_tools(columns, "", faults)
    prompt = _prompt(columns, key, shared, tools, faults)
    rest = [answer[len(shared) :] if isinstance(answer, list) else answer for answer in answers]
    return None if faults else _pair(prompt, rest, tools, _TRL, faults, first=len(shared))


def read_ranking(columns: dict[str, Any], faults: LineFaults) -> Row | None:
    """Read ``messages`` or ``prompt``, and ``ranking``: two answers or more, the best first."""
    listed = json_list(columns.pop("ranking"), "ranking", faults)
    if not columns.keys().isdisjoint(DIALOGUES):
        chat = pop_dialogue(columns, "", faults)
        prompt, tools = chat.messages, chat.tools
    else:
        tools = pop_tools(columns, "", faults)
        prompt = pop_prompt(columns, _PROMPTS, tools, faults)
    if len(listed) < 2 or len(listed) > MAX_RANKED:
        found = f"{len(listed)} answers"
        faults.add(FaultKind.NO_ANSWER, "ranking", found, f"2 to {MAX_RANKED} answers, the best first")
    if faults:
        return None
    names = [f"ranking[{place}]" for place in range(len(listed))]
    single = [answer if isinstance(answer, str | list) else [answer] for answer in listed]
    read = _answers(prompt, single, tools, names, faults)
    return None if faults else Ranking(tuple(prompt), tuple(read), tools)


def as_ranking(row: Row, faults: LineFaults) -> Row | None:
    """Return a pair as a ranking of two; a pair of plain texts is a fault: the server scores chats alone."""
    match row:
        case Preference():
            return Ranking(row.prompt, (row.preferred, row.rejected), row.tools)
        case PlainPreference():
            faults.add(FaultKind.MISSING_KEY, "prompt", "two texts without a prompt", "a prompt, or messages")
            return None
    return row


def _prompt(
    columns: dict[str, Any], key: str | None, shared: list[Any], tools: tuple[Tool, ...], faults: LineFaults
) -> list[dict[str, Any]]:
    """Return the prompt: that of column ``key``, the messages ``shared`` by both answers, or one after the other."""
    messages, _ = read_messages(shared, schemas(tools), _TRL[0], faults)
    if key is None:
        return [*pop_system(columns, messages, "", faults), *messages]
    stated = messages_in(columns[key], key, faults)
    if isinstance(stated, list) and shared[: len(stated)] == stated:
        messages = messages[len(stated) :]
    elif isinstance(stated, str) and shared:
        asked = [message["content"] for message in messages if message["role"] == "user"]
        if not faults and stated.strip() not in [str(text).strip() for text in asked]:
            faults.add(FaultKind.PROMPT_DIFFERS, key, shown(stated), "the prompt with which both answers begin")
        columns.pop(key)
        return [*pop_system(columns, messages, "", faults), *messages]
    return [*pop_prompt(columns, (key,), tools, faults), *messages]


def _pop_answers(columns: dict[str, Any], names: Sequence[str], faults: LineFaults) -> list[Any]:
    """Remove both answers; return each as text or as a list of messages."""
    for name in names:
        if name not in columns:
            faults.add(FaultKind.MISSING_KEY, name, "nothing", "a string or a list of messages")
    return [messages_in(columns.pop(name, ""), name, faults) for name in names]


def _shared(chosen: Sequence[Any], rejected: Sequence[Any]) -> list[Any]:
    """Return the messages with which both lists begin, without the last of either."""
    most = max(0, min(len(chosen), len(rejected)) - 1)
    differing = (index for index in range(most) if chosen[index] != rejected[index])
    return list(chosen[: next(differing, most)])


def _plain_pair(prompt: str, chosen: str, rejected: str, faults: LineFaults) -> Row:
    """Return a pair of texts; the words with which both begin go to the prompt."""
    end = len("".join(_shared(_WORDS.findall(chosen), _WORDS.findall(rejected))))
    faults.warn(WarningKind.PLAIN_TEXT, PLAIN_READ)
    for name, text in zip(_TRL, (chosen, rejected), strict=True):
        if not text[end:].strip():
            faults.add(FaultKind.EMPTY_ANSWER, name, "no text", "some text")
    if chosen == rejected:
        faults.add(FaultKind.SAME_ANSWERS, _TRL[1], "the preferred answer again", "a worse answer")
    return PlainPreference(prompt + chosen[:end], chosen[end:], rejected[end:])


def _pair(
    prompt: list[dict[str, Any]],
    answers: Sequence[Any],
    tools: tuple[Tool, ...],
    names: Sequence[str],
    faults: LineFaults,
    *,
    first: int = 0,
) -> Row | None:
    """Return the row of a prompt and two answers, each one message; ``first`` is its position in the row's list."""
    read = _answers(prompt, answers, tools, names, faults, first)
    return None if faults else Preference(tuple(prompt), read[0], read[1], tools)


def _answers(
    prompt: list[dict[str, Any]],
    answers: Sequence[Any],
    tools: tuple[Tool, ...],
    names: Sequence[str],
    faults: LineFaults,
    first: int = 0,
) -> list[dict[str, Any]]:
    """Return the answers to a prompt, the best first, no two the same; valid only without a fault."""
    read = [_answer(answer, name, schemas(tools), faults, first) for answer, name in zip(answers, names, strict=True)]
    if faults:
        return []
    if not prompt:
        faults.add(FaultKind.NO_MESSAGES, "prompt", "an empty list", "at least one message")
    elif (last := prompt[-1]["role"]) == "assistant":
        faults.add(FaultKind.ROLE_ORDER, "the prompt", f"{last} last", "user, tool or system last")
    for place, (answer, name) in enumerate(zip(read, names, strict=True)):
        check_dialogue([*prompt, answer], name, faults)
        if answer in read[:place]:
            faults.add(FaultKind.SAME_ANSWERS, name, "the preferred answer again", "a worse answer")
    return read


def _answer(value: Any, name: str, known: Mapping[str, Any], faults: LineFaults, first: int) -> dict[str, Any]:
    """Return the answer that is a text, or the one message of a list."""
    listed = [{"role": "assistant", "content": value}] if isinstance(value, str) else value
    if isinstance(listed, list) and len(listed) != 1:
        faults.add(FaultKind.NO_ANSWER, name, f"{len(listed)} messages", "exactly one, of the assistant")
        return {}
    messages, trained = read_messages(listed, known, name, faults, first=first)
    if not messages:
        return {}
    if messages[0]["role"] != "assistant":
        faults.add(FaultKind.WRONG_ROLE, f"{name}[{first}].role", shown(messages[0]["role"]), '"assistant"')
    elif not trained[0]:
        faults.add(FaultKind.NOTHING_TRAINED, f"{name}[{first}]", "an answer with weight 0", "an answer to learn from")
    return messages[0]
