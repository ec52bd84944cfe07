"""The events of jobs: messages and metrics, appended by stores and queue. ``EventLog`` reads them."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from trainer.jobs.rows import AnyRow
from trainer.schema import job_events, mint, row_reader


class Level(StrEnum):
    """OpenAI's values of an event's ``level``."""

    INFO = "info"
    WARN = "warn"
    ERROR = "error"


class Kind(StrEnum):
    """OpenAI's values of an event's ``type``: what ``data`` holds."""

    MESSAGE = "message"
    """Anything."""
    METRICS = "metrics"
    """Numbers to draw curves with."""


@dataclass(frozen=True, slots=True)
class EventDraft:
    """An event to append; ``data`` is JSON, numbers that are not finite become null."""

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


event_of: Final = row_reader(Event)


async def add_events(connection: AsyncConnection, job: AnyRow, at: datetime, drafts: Iterable[EventDraft]) -> None:
    """Append events to the log of ``job``."""
    for draft in drafts:
        await connection.execute(
            insert(job_events).values(
                id=mint("ftevent-"),
                job_number=job.number,
                created_at=at,
                level=draft.level,
                type=draft.type,
                message=draft.message,
                data=None if draft.data is None else finite(draft.data),
            )
        )


def finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``values`` with null for numbers that JSON cannot write: a loss of NaN must not make a list unreadable."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in values.items()
    }
