"""The events of jobs: listed, or followed as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from sqlalchemy import select

from adapters.storage.database import Database
from trainer.jobs import rows
from trainer.jobs.event import Event
from trainer.jobs.state import JOB_STATES
from trainer.page import Page, number_of, read_page
from trainer.schema import job_events

POLL_S: Final = 0.5
_BATCH: Final = 500


class EventLog:
    """What happened to the jobs. Stores and queue write it; nothing in it changes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list(self, job_id: str, *, after: str | None = None, limit: int = 20) -> Page[Event]:
        """Return the job's events before the one with the id ``after``, newest first.

        Raises:
            JobNotFound: no job has this id.
            InvalidField: ``after`` or ``limit`` may not be so.
        """
        async with self._database.read() as connection:
            job = await rows.job_row(connection, job_id)
            its = job_events.c.job_number == job.number
            return await read_page(connection, job_events, rows.event_value, its, after=after, limit=limit)

    async def follow(self, job_id: str, *, after: str | None = None, poll_s: float = POLL_S) -> AsyncIterator[Event]:
        """Yield the job's events since the one with the id ``after``, oldest first, as they come; end when the job has.

        None is missed and none comes twice. The database is asked every ``poll_s`` seconds.

        Raises:
            JobNotFound: no job has this id.
            InvalidField: no event has the id ``after``.
        """
        seen = 0
        if after is not None:
            async with self._database.read() as connection:
                seen = await number_of(connection, job_events, after)
        while True:
            async with self._database.read() as connection:
                job = await rows.job_row(connection, job_id)
                newer = (job_events.c.job_number == job.number, job_events.c.number > seen)
                statement = select(job_events).where(*newer).order_by(job_events.c.number).limit(_BATCH)
                found = (await connection.execute(statement)).all()
            for row in found:
                seen = row.number
                yield rows.event_value(row)
            if len(found) < _BATCH:  # the state and the events were read at one moment
                if job.state in JOB_STATES.terminal:
                    return
                await asyncio.sleep(poll_s)
