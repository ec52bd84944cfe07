"""The formats that the rows of a training file may have."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any


class RowFormat(StrEnum):
    """How rows are written. A file has one format: that of its first readable row."""

    CHAT = "chat"
    """OpenAI's fine-tuning rows: ``messages``, ``tools``, ``weight`` on answers."""
    PROMPT_COMPLETION = "prompt_completion"
    ALPACA = "alpaca"
    """``instruction``, ``input``, ``output`` (Stanford Alpaca)."""
    DPO = "dpo"
    """OpenAI's preference rows: ``input``, ``preferred_output``, ``non_preferred_output``."""
    KTO = "kto"
    """Chat or prompt/completion rows with a ``label``: whether the last answer is good."""


def detect(row: Mapping[str, Any]) -> RowFormat | None:
    """Return the format whose distinctive keys ``row`` has; None if it has none."""
    if "preferred_output" in row or "non_preferred_output" in row:
        return RowFormat.DPO
    if "label" in row:
        return RowFormat.KTO
    if "messages" in row:
        return RowFormat.CHAT
    if "completion" in row or "prompt" in row:
        return RowFormat.PROMPT_COMPLETION
    if "instruction" in row:
        return RowFormat.ALPACA
    return None
