"""Events: what happened to a job, in words, and its metrics step by step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any


class Level(StrEnum):
    """How much an event matters."""

    INFO = "info"
    WARN = "warn"
    ERROR = "error"


class Kind(StrEnum):
    """What ``data`` holds: anything, or numbers to draw curves with."""

    MESSAGE = "message"
    METRICS = "metrics"


@dataclass(frozen=True, slots=True)
class EventDraft:
    """An event to be written; the store adds id and time. ``data`` is JSON, numbers that are not finite become null."""

    message: str
    level: Level = Level.INFO
    type: Kind = Kind.MESSAGE
    data: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """An event of a job; it never changes."""

    id: str
    created_at: datetime
    level: Level
    type: Kind
    message: str
    data: Mapping[str, Any] | None


def finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``values`` as JSON can carry them: a loss of NaN must not make the list of events unreadable."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in values.items()
    }
