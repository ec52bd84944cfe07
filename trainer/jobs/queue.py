"""The queue of jobs, for workers: take a job, renew its lease, record its progress, end it.

A claim carries a lease and a fencing token. Leases are measured by the database's clock only. A worker whose lease has
expired keeps the job until another worker takes it; from then on, all its writes are refused.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import ColumnElement, and_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.storage.database import Database
from trainer.clock import Clock, database_clock
from trainer.errors import LeaseLost
from trainer.jobs import rows
from trainer.jobs.checkpoints import CheckpointDraft, add_checkpoint
from trainer.jobs.events import EventDraft, Level, add_events
from trainer.jobs.job import Failure, Job, Json
from trainer.jobs.state import HELD, JOB_STATES, JobState, Verb
from trainer.schema import jobs
from trainer.turns import next_number

MAX_DEATHS: Final = 3
"""A job fails after this many attempts in a row that died without a new checkpoint."""


class ClaimOrder(StrEnum):
    """The order to a worker that renews its claim."""

    GO_ON = "go_on"
    PAUSE = "pause"
    """Save a checkpoint, then ``release`` the job."""
    STOP = "stop"
    """The job was cancelled: end the attempt and write nothing more."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A worker's claim on a job."""

    job: Job
    """As it was when it was taken."""
    worker: str
    token: int
    """Fencing token: greater than those of all earlier claims on the job."""
    lease_s: float
    """Seconds without a renewal after which the attempt counts as dead."""


@dataclass(frozen=True, slots=True)
class Queue:
    """The queued and held jobs. Each write except ``take`` belongs to a claim.

    A write raises LeaseLost if the job is no longer the claim's, or was cancelled.
    """

    database: Database
    store: str
    """Id of the directory that has the files and runs of the jobs that are taken here."""
    max_deaths: int = MAX_DEATHS
    clock: Clock = database_clock

    async def take(self, worker: str, lease_s: float, base: str | None = None) -> Claim | None:
        """Take a queued job, the oldest of the project whose turn it is; None if there is none.

        Before that, jobs with expired leases are retried. ``base``: fingerprint of the base model that the job is for;
        None: any.
        """
        async with self.database.write() as connection:
            at = await self.clock(connection)
            await self._end_expired(connection, at)
            is_free = and_(jobs.c.state == JobState.QUEUED, *rows.is_trained_in(self.store, base))
            is_held = jobs.c.state.in_(HELD)
            next_ = next_number(jobs, is_free=is_free, is_held=is_held, served_at=jobs.c.taken_at)
            number = (await connection.execute(next_)).scalar_one_or_none()
            if number is None:
                return None
            until = at + timedelta(seconds=lease_s)
            lease = {"worker": worker, "lease_until": until, "taken_at": at, "token": jobs.c.token + 1}
            row = await rows.move(connection, Verb.TAKE, at, jobs.c.number == number, **lease)
            assert row is not None  # locked above
            job = rows.job_of(row)
            again = "" if job.token == 1 else f" again (attempt {job.token})"
            data = {"worker": worker, "attempt": job.token}
            await add_events(connection, row, at, [EventDraft(f"Fine-tuning job started{again}", data=data)])
        return Claim(job, worker, job.token, lease_s)

    async def heartbeat(self, claim: Claim) -> ClaimOrder:
        """Renew the lease; return the order to the worker. A cancelled job does not raise: the order is ``STOP``."""
        async with self.database.write() as connection:
            try:
                row = await self._renew(connection, claim, await self.clock(connection))
            except LeaseLost:
                job = await rows.job_row(connection, claim.job.id)
                if (job.token, job.state) == (claim.token, JobState.CANCELLED):
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
        """Write progress in one transaction, and renew the lease; return the order to the worker.

        Args:
            events: appended to the job's log.
            checkpoints: recorded; one of a step that has one is skipped: an attempt that resumed earlier repeats steps.
            position: bytes of the run's event file that are in the log with this call.
            remaining_s: estimated seconds to the end of the job.
        """
        async with self.database.write() as connection:
            at = await self.clock(connection)
            values: dict[str, Any] = {} if position is None else {"events_position": position}
            if remaining_s is not None:
                values["estimated_finish"] = at + timedelta(seconds=remaining_s)
            before = await rows.job_row(connection, claim.job.id)
            row = await self._renew(connection, claim, at, **values)
            if position is None or position > before.events_position:  # else a call that was made again
                await add_events(connection, row, at, events)
            new = [await add_checkpoint(connection, row, at, draft) for draft in checkpoints]
            if any(new):
                await connection.execute(update(jobs).where(jobs.c.number == row.number).values(deaths=0))
        return _order(row)

    async def succeed(
        self, claim: Claim, *, fine_tuned_model: str, trained_tokens: int, result_files: Sequence[str] = ()
    ) -> Job:
        """End a job whose model was published. ``result_files``: ids of files."""
        messages = (f"New fine-tuned model created: {fine_tuned_model}", "The job has successfully completed")
        return await self._end(
            Verb.SUCCEED,
            claim,
            map(EventDraft, messages),
            fine_tuned_model=fine_tuned_model,
            trained_tokens=trained_tokens,
            result_files=list(result_files),
        )

    async def fail(self, claim: Claim, error: Failure, *, data: Json | None = None) -> Job:
        """Fail a job that another attempt would not save. ``data`` goes into the event."""
        return await self._end(Verb.FAIL, claim, [_failed(error, data)], error=asdict(error))

    async def release(self, claim: Claim) -> Job:
        """Give a job back: a ``pausing`` one becomes ``paused``, others are queued again."""
        async with self.database.write() as connection:
            at = await self.clock(connection)
            held = await self._renew(connection, claim, at)
            row = await rows.move(connection, Verb.RELEASE, at, _is_held_by(claim))
            assert row is not None  # its row is locked
            queued = f"Worker '{claim.worker}' gave the job back, moving it to queued state"
            message = "Fine-tuning job paused" if held.state == JobState.PAUSING else queued
            await add_events(connection, row, at, [EventDraft(message)])
        return rows.job_of(row)

    async def retry(self, claim: Claim, cause: str) -> Job:
        """Give a job back whose attempt died of ``cause``; it fails after too many of them without a new checkpoint."""
        async with self.database.write() as connection:
            at = await self.clock(connection)
            row = await self._renew(connection, claim, at)
            return await self._end_attempt(connection, row, at, cause)

    async def _renew(self, connection: AsyncConnection, claim: Claim, at: datetime, **values: Any) -> rows.AnyRow:
        """Renew the lease; the seconds since it was renewed last count as trained."""
        is_held = (_is_held_by(claim), jobs.c.state.in_(HELD))
        held = (await connection.execute(select(jobs.c.lease_until).where(*is_held).with_for_update())).one_or_none()
        if held is None:
            raise await _lost(connection, claim)
        lease = timedelta(seconds=claim.lease_s)
        trained_s = max(0.0, (at - (held.lease_until - lease)).total_seconds())
        values |= {"lease_until": at + lease, "trained_seconds": jobs.c.trained_seconds + trained_s}
        return (await connection.execute(update(jobs).where(*is_held).values(values).returning(*jobs.c))).one()

    async def _end(self, verb: Verb, claim: Claim, events: Iterable[EventDraft], **values: Any) -> Job:
        async with self.database.write() as connection:
            at = await self.clock(connection)
            await self._renew(connection, claim, at)
            row = await rows.move(connection, verb, at, _is_held_by(claim), **values)
            assert row is not None  # its row is locked
            await add_events(connection, row, at, events)
        return rows.job_of(row)

    async def _end_expired(self, connection: AsyncConnection, at: datetime) -> None:
        """End the attempts whose lease has expired."""
        expired = select(jobs).where(jobs.c.state.in_(HELD), jobs.c.lease_until <= at).order_by(jobs.c.number)
        for row in (await connection.execute(expired.with_for_update(skip_locked=True))).all():
            await self._end_attempt(connection, row, at, f"worker '{row.worker}' did not renew its lease")

    async def _end_attempt(self, connection: AsyncConnection, row: rows.AnyRow, at: datetime, cause: str) -> Job:
        """End an attempt that died: its job is queued again or fails; a ``pausing`` one becomes ``paused``."""
        deaths = row.deaths + 1
        is_job = jobs.c.number == row.number
        if row.state == JobState.RUNNING and deaths >= self.max_deaths:
            message = f"{deaths} attempts died without a new checkpoint, the last because {cause}"
            error = Failure("too_many_deaths", f"{message}: see the worker's log, then create the job anew")
            event = _failed(error)
            moved = await rows.move(connection, Verb.FAIL, at, is_job, deaths=deaths, error=asdict(error))
        else:
            after = JOB_STATES.moves[Verb.RELEASE][JobState(row.state)]
            event = EventDraft(f"Attempt {row.token} died: {cause}. The job is {after} again", Level.WARN)
            moved = await rows.move(connection, Verb.RELEASE, at, is_job, deaths=deaths)
        assert moved is not None  # its row is locked
        await add_events(connection, moved, at, [event])
        return rows.job_of(moved)


def _is_held_by(claim: Claim) -> ColumnElement[bool]:
    return (jobs.c.id == claim.job.id) & (jobs.c.token == claim.token)


def _failed(error: Failure, data: Json | None = None) -> EventDraft:
    return EventDraft(f"Fine-tuning job failed: {error.message}", Level.ERROR, data=data)


def _order(row: rows.AnyRow) -> ClaimOrder:
    return ClaimOrder.PAUSE if row.state == JobState.PAUSING else ClaimOrder.GO_ON


async def _lost(connection: AsyncConnection, claim: Claim) -> LeaseLost:
    row = await rows.job_row(connection, claim.job.id)
    return LeaseLost(
        f"worker '{claim.worker}' no longer holds job '{row.id}': the job is {row.state}, its last attempt was "
        f"{row.token} and this is {claim.token}. Nothing was written; end this attempt"
    )
