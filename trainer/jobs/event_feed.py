"""The newest events of one job in memory: one reader of the database for all who follow the job in this process."""

import asyncio
from collections import deque
from collections.abc import Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import ClassVar, Final

from sqlalchemy import select

from adapters.storage.database import Database, Follower
from trainer.jobs.events import Event, event_of
from trainer.jobs.rows import job_row
from trainer.jobs.state import JOB_STATES
from trainer.schema import job_events

BATCH: Final = 500
"""Events that one reading returns, and that a feed keeps, at most."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Events of a job after some number, oldest first, each with its own number; as one transaction saw them."""

    events: Sequence[tuple[int, Event]]
    has_ended: bool
    is_whole: bool
    """Whether these were all."""


async def read_after(database: Database, job_id: str, number: int) -> Reading:
    """Return up to ``BATCH`` events of the job after ``number``.

    Raises:
        JobNotFound: no job has this id.
    """
    async with database.read() as connection:
        job = await job_row(connection, job_id)
        newer = (job_events.c.job_number == job.number, job_events.c.number > number)
        statement = select(job_events).where(*newer).order_by(job_events.c.number).limit(BATCH)
        rows = (await connection.execute(statement)).all()
    events = [(row.number, event_of(row)) for row in rows]
    return Reading(events, job.state in JOB_STATES.terminal, is_whole=len(rows) < BATCH)


class EventFeed(Follower):
    """The newest events of one job. It reads the database every ``poll_s`` seconds from the first ``wait`` on."""

    refresh_failed: ClassVar[str] = "events of a followed job cannot be read yet"

    def __init__(self, database: Database, job_id: str, poll_s: float) -> None:
        super().__init__(database)
        self.followers = 0
        self._job_id = job_id
        self._poll_s = poll_s
        self._polling: asyncio.Task[None] | None = None
        self._recent: deque[tuple[int, Event]] = deque()
        self._before = self._last = 0
        """``_recent`` holds all events after number ``_before`` up to ``_last``."""
        self._has_ended = self._is_closed = False
        self._changed = asyncio.Event()

    def after(self, number: int) -> Reading | None:
        """Return the events after ``number`` from memory; None if some of them may not be there."""
        if self._polling is None or number < self._before:
            return None
        newer = [entry for entry in self._recent if entry[0] > number]
        return Reading(newer, self._has_ended, is_whole=True)

    async def wait(self, number: int) -> None:
        """Wait for an event after ``number``, for the end of the job, or for ``close``.

        Raises:
            JobNotFound: the job has gone, because the database was restored from a backup.
        """
        if self._polling is None:
            self._before = self._last = number
            polling, name = self.follow(self._poll_s), f"events of {self._job_id}"
            self._polling = asyncio.create_task(polling, name=name, context=Context())  # no request's log context
            self._polling.add_done_callback(lambda _: self._announce())
        while self._last <= number and not (self._has_ended or self._is_closed):
            if self._polling.done():
                self._polling.result()  # raises what it failed with
            await self._changed.wait()

    def close(self) -> None:
        """End all waits and the reading."""
        self._is_closed = True
        if self._polling is not None:
            self._polling.cancel()
        self._announce()

    async def _read(self) -> None:
        while not self._has_ended:
            reading = await read_after(self.database, self._job_id, self._last)
            for number, event in reading.events:
                self._last = number
                self._recent.append((number, event))
                if len(self._recent) > BATCH:
                    self._before, _ = self._recent.popleft()
            self._has_ended = reading.is_whole and reading.has_ended
            if reading.events or self._has_ended:
                self._announce()
            if reading.is_whole:
                return

    def _announce(self) -> None:
        """Wake all who wait."""
        self._changed.set()
        self._changed.clear()
