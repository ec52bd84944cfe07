"""The queue of jobs as workers see it: take one, show signs of life, write about it, end it.

A claim carries a lease and a fencing token. Leases are measured with the database's clock only. A worker whose lease
ran out keeps the job until another takes it; from then on, everything it writes is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.storage.database import Database
from trainer.clock import Clock, database_clock
from trainer.errors import LeaseLost
from trainer.jobs import rows
from trainer.jobs.checkpoint import CheckpointDraft
from trainer.jobs.event import EventDraft, Level
from trainer.jobs.job import Failure, Job, Json
from trainer.jobs.state import HELD, JOB_STATES, JobState, Verb
from trainer.schema import jobs

MAX_DEATHS: Final = 3
"""How many attempts in a row may die without a new checkpoint before the job fails."""


class ClaimOrder(StrEnum):
    """What a worker is to do next."""

    GO_ON = "go_on"
    PAUSE = "pause"
    """Save a checkpoint, then ``release`` the job."""
    STOP = "stop"
    """The job was cancelled: end the attempt, write nothing more."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A worker's hold on a job, as of when it was taken."""

    job: Job
    worker: str
    token: int
    """Greater than that of every earlier claim on the job."""
    lease_s: float
    """Without a sign of life for this long, the attempt counts as dead."""


class Queue:
    """Jobs to be worked on. Every write but ``take`` belongs to a claim, and is refused when another superseded it."""

    def __init__(self, database: Database, *, max_deaths: int = MAX_DEATHS, clock: Clock = database_clock) -> None:
        self._database = database
        self._max_deaths = max_deaths
        self._clock = clock

    async def take(self, worker: str, lease_s: float) -> Claim | None:
        """Take the oldest job that waits; None if none does. Jobs whose lease ran out wait again, or fail, first."""
        async with self._database.write() as connection:
            at = await self._clock(connection)
            await self._bury_the_dead(connection, at)
            oldest = select(jobs.c.number).where(jobs.c.state == JobState.QUEUED).order_by(jobs.c.number).limit(1)
            number = (await connection.execute(oldest.with_for_update(skip_locked=True))).scalar_one_or_none()
            if number is None:
                return None
            lease = {"worker": worker, "lease_until": at + timedelta(seconds=lease_s), "token": jobs.c.token + 1}
            row = await rows.move(connection, Verb.TAKE, at, jobs.c.number == number, **lease)
            assert row is not None  # locked above
            job = rows.job_value(row)
            data = {"worker": worker, "attempt": job.token}
            message = (
                "Fine-tuning job started" if job.token == 1 else f"Fine-tuning job started again (attempt {job.token})"
            )
            await rows.add_events(connection, row, at, [EventDraft(message, data=data)])
        return Claim(job, worker, job.token, lease_s)

    async def heartbeat(self, claim: Claim) -> ClaimOrder:
        """Renew the lease; return what the worker is to do.

        Raises:
            LeaseLost: the job is no longer this claim's.
        """
        async with self._database.write() as connection:
            try:
                row = await self._renew(connection, claim, await self._clock(connection))
            except LeaseLost:
                seen = await rows.job_row(connection, claim.job.id)
                if (seen.token, seen.state) == (claim.token, JobState.CANCELLED):
                    return ClaimOrder.STOP
                raise
        return _order(row)

    async def record(
        self,
        claim: Claim,
        *,
        events: Sequence[EventDraft] = (),
        checkpoints: Iterable[CheckpointDraft] = (),
        position: int | None = None,
        remaining_s: float | None = None,
    ) -> ClaimOrder:
        """Write what happened, all of it or nothing; also a sign of life.

        ``position`` is where in the run's events the next attempt is to go on, ``remaining_s`` estimates the finish.

        A checkpoint of a step that has one is passed over: an attempt that resumed further back comes by again.

        Raises:
            LeaseLost: the job is no longer this claim's, or was cancelled.
        """
        async with self._database.write() as connection:
            at = await self._clock(connection)
            known: dict[str, Any] = {} if position is None else {"events_position": position}
            if remaining_s is not None:
                known["estimated_finish"] = at + timedelta(seconds=remaining_s)
            row = await self._renew(connection, claim, at, **known)
            await rows.add_events(connection, row, at, events)
            new = [await rows.add_checkpoint(connection, row, at, draft) for draft in checkpoints]
            if any(new):
                await connection.execute(update(jobs).where(jobs.c.number == row.number).values(deaths=0))
        return _order(row)

    async def succeed(
        self, claim: Claim, *, fine_tuned_model: str, trained_tokens: int, result_files: Sequence[str] = ()
    ) -> Job:
        """End a job well, after its model was published. ``result_files`` are ids of files.

        Raises:
            LeaseLost: the job is no longer this claim's, or was cancelled.
        """
        result = {
            "fine_tuned_model": fine_tuned_model,
            "trained_tokens": trained_tokens,
            "result_files": list(result_files),
        }
        created = EventDraft(f"New fine-tuned model created: {fine_tuned_model}")
        done = EventDraft("The job has successfully completed")
        return await self._end(Verb.SUCCEED, claim, [created, done], **result)

    async def fail(self, claim: Claim, error: Failure, *, data: Json | None = None) -> Job:
        """End a job that another attempt would not save. ``data`` goes into the event.

        Raises:
            LeaseLost: the job is no longer this claim's, or was cancelled.
        """
        event = EventDraft(f"Fine-tuning job failed: {error.message}", Level.ERROR, data=data)
        return await self._end(Verb.FAIL, claim, [event], error=asdict(error))

    async def release(self, claim: Claim) -> Job:
        """Give a job back unharmed: it is ``paused`` if that was asked for, else it waits for a worker again.

        Raises:
            LeaseLost: the job is no longer this claim's, or was cancelled.
        """
        async with self._database.write() as connection:
            at = await self._clock(connection)
            held = await self._renew(connection, claim, at)
            row = await rows.move(connection, Verb.RELEASE, at, _is_held_by(claim))
            assert row is not None  # its row is locked
            back = f"Worker '{claim.worker}' gave the job back, moving it to queued state"
            message = "Fine-tuning job paused" if held.state == JobState.PAUSING else back
            await rows.add_events(connection, row, at, [EventDraft(message)])
        return rows.job_value(row)

    async def retry(self, claim: Claim, cause: str) -> Job:
        """Give a job back because its attempt died of ``cause``; it fails if too many did without a new checkpoint.

        Raises:
            LeaseLost: the job is no longer this claim's, or was cancelled.
        """
        async with self._database.write() as connection:
            at = await self._clock(connection)
            row = await self._renew(connection, claim, at)
            return await self._bury(connection, row, at, cause)

    async def _renew(self, connection: AsyncConnection, claim: Claim, at: datetime, **values: Any) -> rows.AnyRow:
        until = at + timedelta(seconds=claim.lease_s)
        hold = update(jobs).where(_is_held_by(claim), jobs.c.state.in_(HELD)).values(lease_until=until, **values)
        row = (await connection.execute(hold.returning(*jobs.c))).one_or_none()
        if row is None:
            raise await _lost(connection, claim)
        return row

    async def _end(self, verb: Verb, claim: Claim, events: Sequence[EventDraft], **values: Any) -> Job:
        async with self._database.write() as connection:
            at = await self._clock(connection)
            row = await rows.move(connection, verb, at, _is_held_by(claim), **values)
            if row is None:
                raise await _lost(connection, claim)
            await rows.add_events(connection, row, at, events)
        return rows.job_value(row)

    async def _bury_the_dead(self, connection: AsyncConnection, at: datetime) -> None:
        """End the attempts whose lease ran out."""
        dead = select(jobs).where(jobs.c.state.in_(HELD), jobs.c.lease_until <= at).order_by(jobs.c.number)
        for row in (await connection.execute(dead.with_for_update(skip_locked=True))).all():
            await self._bury(connection, row, at, f"worker '{row.worker}' gave no sign of life")

    async def _bury(self, connection: AsyncConnection, row: rows.AnyRow, at: datetime, cause: str) -> Job:
        """End an attempt that died; a job about to pause is paused, however it got there."""
        deaths = row.deaths + 1
        this = jobs.c.number == row.number
        if row.state == JobState.RUNNING and deaths >= self._max_deaths:
            message = f"{deaths} attempts died without a new checkpoint, the last because {cause}"
            error = Failure("too_many_deaths", f"{message}: see the worker's log, then create the job anew")
            event = EventDraft(f"Fine-tuning job failed: {error.message}", Level.ERROR)
            moved = await rows.move(connection, Verb.FAIL, at, this, deaths=deaths, error=asdict(error))
        else:
            after = JOB_STATES.moves[Verb.RELEASE][JobState(row.state)]
            event = EventDraft(f"Attempt {row.token} died: {cause}. The job is {after} again", Level.WARN)
            moved = await rows.move(connection, Verb.RELEASE, at, this, deaths=deaths)
        assert moved is not None  # its row is locked
        await rows.add_events(connection, moved, at, [event])
        return rows.job_value(moved)


def _is_held_by(claim: Claim) -> ColumnElement[bool]:
    return (jobs.c.id == claim.job.id) & (jobs.c.token == claim.token)


def _order(row: rows.AnyRow) -> ClaimOrder:
    return ClaimOrder.PAUSE if row.state == JobState.PAUSING else ClaimOrder.GO_ON


async def _lost(connection: AsyncConnection, claim: Claim) -> LeaseLost:
    row = await rows.job_row(connection, claim.job.id)
    return LeaseLost(
        f"worker '{claim.worker}' no longer holds job '{row.id}': the job is {row.state}, its last attempt was "
        f"{row.token} and this is {claim.token}. Nothing was written; end this attempt"
    )
