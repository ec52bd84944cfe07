"""Reads the events of jobs: in pages, or as they come."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Final

from adapters.storage.database import Database
from trainer.jobs.event_feed import EventFeed, read_after
from trainer.jobs.events import Event, event_of
from trainer.jobs.rows import job_row
from trainer.page import Page, number_of, read_page
from trainer.schema import job_events

POLL_S: Final = 0.5


class EventLog:
    """The events of all jobs, for readers. All who follow a job read the database once every ``poll_s`` seconds."""

    def __init__(self, database: Database, *, poll_s: float = POLL_S) -> None:
        self.database = database
        self.poll_s = poll_s
        self.is_closed = False
        """True once nothing is followed any more, because the process stops."""
        self._feeds: dict[str, EventFeed] = {}
        """By the id of a job that is followed."""

    async def list(self, job_id: str, *, after: str | None = None, limit: int = 20) -> Page[Event]:
        """Return the job's events before the one with the id ``after``, newest first.

        Raises:
            JobNotFound: no job has this id.
            InvalidField: no event has the id ``after``, or ``limit`` is out of bounds.
        """
        async with self.database.read() as connection:
            of_job = job_events.c.job_number == (await job_row(connection, job_id)).number
            return await read_page(connection, job_events, event_of, of=of_job, after=after, limit=limit)

    async def follow(
        self, job_id: str, *, after: str | None = None, silence_s: float | None = None
    ) -> AsyncGenerator[Event | None, None]:
        """Yield the job's events after the one with the id ``after``, oldest first, each once, until the job has ended.

        It ends before the job does if the log is closed. After each ``silence_s`` seconds without an event it yields
        None. Close it when you leave it: the last one to follow a job ends the reading.

        Raises:
            JobNotFound: no job has this id.
            InvalidField: no event has the id ``after``.
        """
        last = 0
        if after is not None:
            async with self.database.read() as connection:
                of_job = job_events.c.job_number == (await job_row(connection, job_id)).number
                last = await number_of(connection, job_events, after, of_job)
        with self._feed(job_id) as feed:
            while not self.is_closed:
                reading = feed.after(last) or await read_after(self.database, job_id, last)
                for number, event in reading.events:
                    last = number
                    yield event
                if not reading.is_whole:
                    continue
                if reading.has_ended:
                    return
                try:
                    async with asyncio.timeout(silence_s):
                        await feed.wait(last)
                except TimeoutError:
                    yield None

    def close(self) -> None:
        """End all that is being followed; what is followed from now on ends at once."""
        self.is_closed = True
        for feed in self._feeds.values():
            feed.close()

    @contextmanager
    def _feed(self, job_id: str) -> Iterator[EventFeed]:
        """Return the job's feed, which ends with the last one who follows the job."""
        feed = self._feeds.get(job_id)
        if feed is None:
            feed = self._feeds[job_id] = EventFeed(self.database, job_id, self.poll_s)
        feed.followers += 1
        try:
            yield feed
        finally:
            feed.followers -= 1
            if not feed.followers:
                del self._feeds[job_id]
                feed.close()
