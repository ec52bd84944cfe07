"""The store of jobs, for callers and the preflight: create, read, admit, reject, pause, resume, cancel."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, Final

from pydantic import TypeAdapter
from sqlalchemy import ColumnElement, exists, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.storage.database import Database
from trainer.clock import Clock, database_clock
from trainer.errors import InvalidField, LeaseLost
from trainer.files.file import Purpose
from trainer.jobs import rows
from trainer.jobs.events import EventDraft, Level, add_events
from trainer.jobs.job import Failure, Job, JobDraft, Json
from trainer.jobs.state import UNFINISHED, JobState, Verb
from trainer.options import MAX_SEED
from trainer.page import Page, belongs_to, read_page
from trainer.schema import files, job_metadata, jobs, mint

_NO_FILTER: Final[Mapping[str, str]] = MappingProxyType({})

_DRAFT: Final = TypeAdapter(JobDraft)
_MESSAGES: Final = {
    (Verb.ADMIT, JobState.QUEUED): "Files validated, moving job to queued state",
    (Verb.REJECT, JobState.FAILED): "Files did not pass validation",
    (Verb.PAUSE, JobState.PAUSED): "Fine-tuning job paused",
    (Verb.PAUSE, JobState.PAUSING): "Pausing fine-tuning job at its next checkpoint",
    (Verb.RESUME, JobState.QUEUED): "Fine-tuning job resumed, moving it to queued state",
    (Verb.RESUME, JobState.RUNNING): "Fine-tuning job continues: it had not paused yet",
    (Verb.CANCEL, JobState.CANCELLED): "Fine-tuning job cancelled",
}


@dataclass(frozen=True, slots=True)
class JobUsage:
    """What a job used since it was charged last: tokens of a job that succeeded, and seconds that workers held it."""

    job: Job
    tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class JobStore:
    """The jobs in a database that several processes may share.

    Each change of state is one conditional UPDATE; its event is written in the same transaction. A change that the
    job's state does not allow raises IllegalTransition, and an unknown ``job_id`` JobNotFound. ``project``: only its
    jobs; None: all.
    """

    database: Database
    store: str
    """Id of the directory that has the files of the jobs that are created here."""
    clock: Clock = database_clock

    async def create(self, draft: JobDraft) -> Job:
        """Create a job in ``validating_files``; workers take it once it is admitted.

        Raises:
            InvalidField: one of its files does not exist in the job's project, or has another purpose.
        """
        async with self.database.write() as connection:
            await _check_file(connection, "training_file", draft.training_file, draft.project)
            if draft.validation_file is not None:
                await _check_file(connection, "validation_file", draft.validation_file, draft.project)
            at = await self.clock(connection)
            values = {
                **_DRAFT.dump_python(draft, mode="json", exclude={"notes"}),
                "id": mint("ftjob-"),
                "created_at": at,
                "state": JobState.VALIDATING_FILES,
                "store": self.store,
                "seed": secrets.randbelow(MAX_SEED + 1) if draft.seed is None else draft.seed,
                **dict.fromkeys(("token", "deaths", "events_position"), 0),
                "result_files": [],
            }
            row = (await connection.execute(insert(jobs).values(values).returning(*jobs.c))).one()
            for key, value in (draft.metadata or {}).items():
                await connection.execute(insert(job_metadata).values(job_number=row.number, key=key, value=value))
            validated = " and ".join(filter(None, (draft.training_file, draft.validation_file)))
            messages = (f"Created fine-tuning job: {row.id}", *draft.notes, f"Validating files: {validated}")
            await add_events(connection, row, at, map(EventDraft, messages))
        return rows.job_of(row)

    async def get(self, job_id: str, project: str | None = None) -> Job:
        async with self.database.read() as connection:
            return rows.job_of(await rows.job_row(connection, job_id, *belongs_to(jobs, project)))

    async def check_publishable(self, job_id: str, claim: int | None, connection: AsyncConnection) -> None:
        """Check a job in a transaction of another store, which waits for a change under way.

        Raises:
            IllegalTransition, LeaseLost: as ``rows.check_publishable``.
        """
        row = (await connection.execute(select(jobs).where(jobs.c.id == job_id).with_for_update())).one_or_none()
        if row is not None:
            rows.check_publishable(rows.job_of(row), claim)

    async def record_verdict(self, job_id: str, verdict: Json, event: EventDraft, connection: AsyncConnection) -> None:
        """Record the verdict on a job and its event in a transaction of another store."""
        statement = update(jobs).where(jobs.c.id == job_id).values(verdict=dict(verdict)).returning(*jobs.c)
        row = (await connection.execute(statement)).one()
        await add_events(connection, row, await self.clock(connection), [event])

    async def list(
        self,
        *,
        after: str | None = None,
        limit: int = 20,
        metadata: Mapping[str, str] | None = _NO_FILTER,
        project: str | None = None,
    ) -> Page[Job]:
        """Return the jobs before the one with the id ``after``, newest first, that carry every pair of ``metadata``.

        With ``metadata=None``: the jobs that were created without metadata.

        Raises:
            InvalidField: no job has the id ``after``, or ``limit`` is out of bounds.
        """
        where = [jobs.c.metadata.is_(None)] if metadata is None else [_carries(*pair) for pair in metadata.items()]
        async with self.database.read() as connection:
            return await read_page(connection, jobs, rows.job_of, *where, after=after, limit=limit, project=project)

    async def unvalidated(self, checker: str, base: str | None = None) -> Sequence[Job]:
        """Return the jobs whose files ``checker`` may validate, oldest first: those that no other process holds.

        ``base``: fingerprint of the base model that they are for; None: any.
        """
        async with self.database.read() as connection:
            at = await self.clock(connection)
            is_free = (_is_unheld(checker, at), *rows.is_trained_in(self.store, base))
            return await self._read(connection, jobs.c.state == JobState.VALIDATING_FILES, *is_free)

    async def hold(self, job_id: str, checker: str, lease_s: float) -> None:
        """Let ``checker`` alone validate a job's files for ``lease_s`` seconds.

        Raises:
            LeaseLost: another process holds the job, or it was decided or cancelled.
        """
        async with self.database.write() as connection:
            at = await self.clock(connection)
            is_free = (jobs.c.id == job_id, jobs.c.state == JobState.VALIDATING_FILES, _is_unheld(checker, at))
            lease = {"worker": checker, "lease_until": at + timedelta(seconds=lease_s)}
            if (await connection.execute(update(jobs).where(*is_free).values(**lease))).rowcount != 1:
                raise LeaseLost(f"'{checker}' does not check the files of job '{job_id}': it is held or decided")

    async def unfinished(self) -> Sequence[Job]:
        """Return the jobs that have not ended, oldest first."""
        async with self.database.read() as connection:
            return await self._read(connection, jobs.c.state.in_(UNFINISHED))

    async def ended(self, job_ids: Sequence[str], before_s: float) -> Sequence[str]:
        """Return those of ``job_ids`` that ended more than ``before_s`` seconds ago."""
        async with self.database.read() as connection:
            latest = await self.clock(connection) - timedelta(seconds=before_s)
            statement = select(jobs.c.id).where(jobs.c.finished_at <= latest, jobs.c.id.in_(job_ids))
            return (await connection.execute(statement.order_by(jobs.c.id))).scalars().all()

    async def _read(self, connection: AsyncConnection, *where: ColumnElement[bool]) -> Sequence[Job]:
        found = await connection.execute(select(jobs).where(*where).order_by(jobs.c.number))
        return [rows.job_of(row) for row in found]

    async def warm_starts(self) -> set[str]:
        """Return the names of the versions that unfinished jobs train further."""
        statement = select(jobs.c.extension).where(jobs.c.finished_at.is_(None))
        async with self.database.read() as connection:
            extensions = (await connection.execute(statement)).scalars()
            return {extension["warm_start"] for extension in extensions if "warm_start" in extension}

    async def admit(self, job_id: str, method: Json, *, data: Json | None = None) -> Job:
        """Queue a job whose files are accepted, with ``method`` as the preflight resolved it: no "auto" is left.

        ``data`` goes into the event: the findings of the preflight.
        """
        return await self._move(Verb.ADMIT, job_id, data=data, method=dict(method))

    async def reject(self, job_id: str, error: Failure, *, data: Json | None = None) -> Job:
        """Fail a job whose files are refused. ``data`` goes into the event: every fault."""
        return await self._move(Verb.REJECT, job_id, data=data, error=asdict(error))

    async def pause(self, job_id: str, *, reason: str | None = None) -> Job:
        """Pause a queued or running job; a running one is ``pausing`` until its worker has saved a checkpoint.

        ``reason`` goes into the event.
        """
        return await self._move(Verb.PAUSE, job_id, reason=reason)

    async def resume(self, job_id: str) -> Job:
        """Queue a paused job again, or let a ``pausing`` one continue; resets its count of deaths."""
        return await self._move(Verb.RESUME, job_id, deaths=0)

    async def cancel(self, job_id: str) -> Job:
        """End an unfinished job at once; its worker stops at the next heartbeat. Its checkpoints stay."""
        return await self._move(Verb.CANCEL, job_id)

    async def has_usage(self) -> bool:
        """Whether a job has used anything since the last call of ``take_usage``."""
        async with self.database.read() as connection:
            return (await connection.execute(select(jobs.c.number).where(_is_due()).limit(1))).first() is not None

    async def take_usage(self, connection: AsyncConnection) -> Sequence[JobUsage]:
        """Return the usage of jobs since the last call; in the transaction of ``connection`` it counts as charged."""
        due = select(jobs).where(_is_due()).order_by(jobs.c.number).with_for_update(skip_locked=True)
        found = (await connection.execute(due)).all()
        for row in found:
            charged = {"charged_seconds": row.trained_seconds, "charged_tokens": row.trained_tokens or 0}
            await connection.execute(update(jobs).where(jobs.c.number == row.number).values(charged))
        return [
            JobUsage(
                rows.job_of(row),
                (row.trained_tokens or 0) - row.charged_tokens,
                row.trained_seconds - row.charged_seconds,
            )
            for row in found
        ]

    async def _move(
        self, verb: Verb, job_id: str, *, reason: str | None = None, data: Json | None = None, **values: Any
    ) -> Job:
        async with self.database.write() as connection:
            at = await self.clock(connection)
            row = await rows.move(connection, verb, at, jobs.c.id == job_id, **values)
            if row is None:
                raise rows.illegal(verb, await rows.job_row(connection, job_id))
            job = rows.job_of(row)
            message = _MESSAGES[verb, job.state]
            reason = reason if job.error is None else job.error.message
            if reason is not None:
                message = f"{message}: {reason}"
            level = Level.INFO if job.error is None else Level.ERROR
            await add_events(connection, row, at, [EventDraft(message, level, data=data)])
        return job


def _is_due() -> ColumnElement[bool]:
    tokens = func.coalesce(jobs.c.trained_tokens, 0)
    return (jobs.c.trained_seconds > jobs.c.charged_seconds) | (tokens > jobs.c.charged_tokens)


def _is_unheld(checker: str, at: datetime) -> ColumnElement[bool]:
    return or_(jobs.c.worker.is_(None), jobs.c.worker == checker, jobs.c.lease_until <= at)


async def _check_file(connection: AsyncConnection, param: str, file_id: str, project: str) -> None:
    """Refuse a missing or unsuitable file; its row stays locked, so that it is not deleted before the job exists."""
    is_file = (files.c.id == file_id, files.c.deleted_at.is_(None), files.c.project == project)
    statement = select(files).where(*is_file).with_for_update()
    row = (await connection.execute(statement)).one_or_none()
    if row is None:
        raise InvalidField(f"{param} '{file_id}' does not exist: upload it with purpose 'fine-tune'", param=param)
    if row.purpose != Purpose.FINE_TUNE:
        raise InvalidField(
            f"{param} '{file_id}' has the purpose '{row.purpose}': upload it again with purpose 'fine-tune'",
            param=param,
        )


def _carries(key: str, value: str) -> ColumnElement[bool]:
    pair = (job_metadata.c.key == key, job_metadata.c.value == value)
    return exists().where(job_metadata.c.job_number == jobs.c.number, *pair)
