"""Checkpoints as OpenAI shows them: a published model for a step on the way, and who else may use it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class CheckpointDraft:
    """A checkpoint to be noted, after its model was published. ``metrics`` carry OpenAI's names and may carry more."""

    step_number: int
    model: str
    """The name it is served under, ``…:ckpt-step-N``."""
    metrics: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint of a job; it never changes."""

    id: str
    created_at: datetime
    job_id: str
    step_number: int
    model: str
    metrics: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Permission:
    """Another project may use the checkpoint ``model``."""

    id: str
    created_at: datetime
    model: str
    project_id: str
