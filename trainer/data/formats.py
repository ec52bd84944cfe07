"""The formats that a training file may have, and which method trains on which."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

from trainer.run_spec import TrainingMethod


class Format(StrEnum):
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


METHODS: Final[Mapping[Format, TrainingMethod]] = {
    Format.CHAT: TrainingMethod.SUPERVISED,
    Format.PROMPT_COMPLETION: TrainingMethod.SUPERVISED,
    Format.ALPACA: TrainingMethod.SUPERVISED,
    Format.DPO: TrainingMethod.DPO,
    Format.KTO: TrainingMethod.KTO,
}


def detect(row: Mapping[str, Any]) -> Format | None:
    """Return the format whose telling keys ``row`` has, None if it has nobody's."""
    if "preferred_output" in row or "non_preferred_output" in row:
        return Format.DPO
    if "label" in row:
        return Format.KTO
    if "messages" in row:
        return Format.CHAT
    if "completion" in row or "prompt" in row:
        return Format.PROMPT_COMPLETION
    if "instruction" in row:
        return Format.ALPACA
    return None
