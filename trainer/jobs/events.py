"""The events of jobs: messages and metrics, appended by stores and queue, listed or followed by readers."""

import asyncio
import math
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.storage.database import Database
from trainer.jobs.rows import AnyRow, job_row
from trainer.jobs.state import JOB_STATES
from trainer.page import Page, number_of, read_page
from trainer.schema import job_events, mint, row_reader

POLL_S: Final = 0.5
_BATCH: Final = 500


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


_event: Final = row_reader(Event)


@dataclass(frozen=True, slots=True)
class EventLog:
    """The events of all jobs, for readers."""

    database: Database

    async def list(self, job_id: str, *, after: str | None = None, limit: int = 20) -> Page[Event]:
        """Return the job's events before the one with the id ``after``, newest first.

        Raises:
            JobNotFound: no job has this id.
            InvalidField: no event has the id ``after``, or ``limit`` is out of bounds.
        """
        async with self.database.read() as connection:
            of_job = job_events.c.job_number == (await job_row(connection, job_id)).number
            return await read_page(connection, job_events, _event, of_job, after=after, limit=limit)

    async def follow(self, job_id: str, *, after: str | None = None, poll_s: float = POLL_S) -> AsyncIterator[Event]:
        """Yield the job's events after the one with the id ``after``, oldest first, each once, until the job has ended.

        The database is read every ``poll_s`` seconds.

        Raises:
            JobNotFound: no job has this id.
            InvalidField: no event has the id ``after``.
        """
        last = 0
        if after is not None:
            async with self.database.read() as connection:
                of_job = job_events.c.job_number == (await job_row(connection, job_id)).number
                last = await number_of(connection, job_events, after, of_job)
        while True:
            async with self.database.read() as connection:
                job = await job_row(connection, job_id)
                newer = (job_events.c.job_number == job.number, job_events.c.number > last)
                statement = select(job_events).where(*newer).order_by(job_events.c.number).limit(_BATCH)
                rows = (await connection.execute(statement)).all()
            for row in rows:
                last = row.number
                yield _event(row)
            if len(rows) < _BATCH:  # state and events were read in one transaction
                if job.state in JOB_STATES.terminal:
                    return
                await asyncio.sleep(poll_s)


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
