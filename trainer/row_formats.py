"""The formats that the rows of a training file may have."""

from collections.abc import Collection, Mapping
from enum import StrEnum
from typing import Any, Final


class RowFormat(StrEnum):
    """How rows are written. A file has one format: that of its first readable row."""

    CHAT = "chat"
    """OpenAI's fine-tuning rows: ``messages``, ``tools``, ``weight`` on answers."""
    PROMPT_COMPLETION = "prompt_completion"
    """``prompt`` and ``completion``, each a text or messages (TRL)."""
    ALPACA = "alpaca"
    """``instruction``, ``input``, ``output`` (Stanford Alpaca), and ``system`` and ``history`` (LLaMA-Factory)."""
    SHAREGPT = "sharegpt"
    """``conversations`` of messages with ``from`` and ``value``."""
    TEXT = "text"
    """``text`` alone: trained as it is, without the chat template."""
    DPO = "dpo"
    """OpenAI's preference rows: ``input``, ``preferred_output``, ``non_preferred_output``."""
    PREFERENCE = "preference"
    """TRL's preference rows: ``chosen`` and ``rejected``, with a ``prompt`` or with the prompt as their beginning."""
    KTO = "kto"
    """Chat, ShareGPT, prompt/completion or Alpaca rows with a ``label``: whether the last answer is good."""
    RANKING = "ranking"
    """``messages`` or ``prompt``, and ``ranking``: answers to it, each a text or a message, the best first."""
    TASK = "task"
    """OpenAI's reinforcement rows: ``messages`` or ``prompt`` without an answer; other columns are for the grader."""
    QUESTION = "question"
    """``messages`` or a prompt that a teacher answers; an answer that the row has is left out."""


STATED: Final = frozenset({RowFormat.TASK, RowFormat.QUESTION})
"""Formats that the method states: no column tells them from others."""

DIALOGUES: Final = ("messages", "conversations", "conversation")
"""Keys of a list of messages."""
KEYS: Final = "messages; prompt and completion; instruction and output; conversations; chosen and rejected; text"
"""What a row of a known format has, as messages name it."""
QUESTIONS: Final = ("prompt", "question", "query", "instruction", "input")
"""Columns of a text that is asked; of several in a row, ``trainer.data.column_names`` decides."""
ANSWERS: Final = ("completion", "response", "answer", "output")
KNOWN: Final = frozenset(
    {
        *(*DIALOGUES, *QUESTIONS, *ANSWERS, "text", "context", "system", "system_prompt", "history"),
        *("chosen", "rejected", "chosen_response", "rejected_response", "rejected_messages"),
        *("preferred_output", "non_preferred_output", "label", "kto_tag", "ranking", "tools", "functions"),
        *("weight", "chat_template_kwargs"),
    }
)
"""Every column that is read."""
_COLUMNS: Final = KNOWN - {"context", "system", "history", "label", "weight"}
"""Columns by which a table's header is recognised."""


def known_name(name: str) -> str:
    """Return a column's name as ``KNOWN`` would have it, whatever its case and spaces."""
    return "_".join(name.casefold().split())


def detect(row: Mapping[str, Any]) -> RowFormat | None:
    """Return the format whose distinctive keys ``row`` has; None if it has none.

    A ``label`` makes rows of format ``kto`` only where it says true or false. Any other label is that of a
    classification, say, and no judgement of the answer.
    """
    if "ranking" in row:
        return RowFormat.RANKING
    if "preferred_output" in row or "non_preferred_output" in row:
        return RowFormat.DPO
    if "chosen" in row or "rejected" in row:
        return RowFormat.PREFERENCE
    form = of_one_answer(row)
    return RowFormat.KTO if form in JUDGED and as_label(row.get("label")) is not None else form


def of_one_answer(row: Mapping[str, Any]) -> RowFormat | None:
    """Return the format of a row beside whose label; None if it has none, or two answers."""
    if "messages" in row:
        return RowFormat.CHAT
    if any(key in row for key in DIALOGUES):
        return RowFormat.SHAREGPT
    if "completion" in row:
        return RowFormat.PROMPT_COMPLETION
    if "instruction" in row or ("input" in row and "output" in row):
        return RowFormat.ALPACA
    if "prompt" in row:
        return RowFormat.PROMPT_COMPLETION
    return RowFormat.TEXT if "text" in row else None


JUDGED: Final = frozenset({RowFormat.CHAT, RowFormat.SHAREGPT, RowFormat.PROMPT_COMPLETION, RowFormat.ALPACA})
"""Formats that a label turns into ``kto``."""


def as_label(value: object) -> bool | None:
    """Return the judgement that a ``label`` states, as a boolean or as the text of one; None for any other value."""
    if isinstance(value, str):
        return {"true": True, "false": False}.get(value.strip().lower())
    return value if isinstance(value, bool) else None


def is_header(names: Collection[str]) -> bool:
    """Whether ``names`` are the columns of a table of training rows."""
    return not _COLUMNS.isdisjoint(map(known_name, names))
