"""The formats that a training file may have, and which method trains on which."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

from trainer.run_spec import TrainingMethod


class RowFormat(StrEnum):
    """How the rows of a file are spelled. A file has one format; its first readable row decides."""

    CHAT = "chat"
    """OpenAI's fine-tuning rows: ``messages``, ``tools``, ``weight`` on answers."""
    PROMPT_COMPLETION = "prompt_completion"
    ALPACA = "alpaca"
    """``instruction``, ``input``, ``output`` (Stanford Alpaca)."""
    DPO = "dpo"
    """OpenAI's preference rows: ``input``, ``preferred_output``, ``non_preferred_output``."""
    KTO = "kto"
    """Chat or prompt/completion rows with a ``label``: was the last answer good?"""


METHODS: Final[Mapping[RowFormat, TrainingMethod]] = {
    RowFormat.CHAT: TrainingMethod.SUPERVISED,
    RowFormat.PROMPT_COMPLETION: TrainingMethod.SUPERVISED,
    RowFormat.ALPACA: TrainingMethod.SUPERVISED,
    RowFormat.DPO: TrainingMethod.DPO,
    RowFormat.KTO: TrainingMethod.KTO,
}


def detect(row: Mapping[str, Any]) -> RowFormat | None:
    """Return the format whose telling keys ``row`` has, None if it has nobody's."""
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
