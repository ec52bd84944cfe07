"""Jobs as people see them: create, look at, pause, resume, cancel; and what checking their files decides."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final

from sqlalchemy import ColumnElement, exists, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.storage.database import Database
from trainer.clock import Clock, database_clock
from trainer.errors import InvalidField
from trainer.files.file import Purpose, Status
from trainer.ids import mint
from trainer.jobs import rows
from trainer.jobs.event import EventDraft, Level
from trainer.jobs.job import MAX_SEED, Failure, Job, JobDraft, Json
from trainer.jobs.state import JobState, Verb
from trainer.page import Page, read_page
from trainer.schema import files, job_metadata, jobs

__all__ = ["Failure", "Job", "JobDraft", "JobStore"]

_NO_FILTER: Final[Mapping[str, str]] = MappingProxyType({})

_DONE: Final = {
    (Verb.ADMIT, JobState.QUEUED): "Files validated, moving job to queued state",
    (Verb.REJECT, JobState.FAILED): "Files did not pass validation",
    (Verb.PAUSE, JobState.PAUSED): "Fine-tuning job paused",
    (Verb.PAUSE, JobState.PAUSING): "Pausing fine-tuning job at its next checkpoint",
    (Verb.RESUME, JobState.QUEUED): "Fine-tuning job resumed, moving it to queued state",
    (Verb.RESUME, JobState.RUNNING): "Fine-tuning job goes on: it had not paused yet",
    (Verb.CANCEL, JobState.CANCELLED): "Fine-tuning job cancelled",
}


class JobStore:
    """The jobs of all processes that share a database.

    Every change of state is one conditional UPDATE, and its event is written in the same transaction.
    """

    def __init__(self, database: Database, *, clock: Clock = database_clock) -> None:
        self._database = database
        self._clock = clock

    async def create(self, draft: JobDraft) -> Job:
        """Create a job in ``validating_files``; nobody takes it until it is admitted.

        Raises:
            InvalidField: one of its files does not exist, has another purpose or was found faulty.
        """
        async with self._database.write() as connection:
            await _check_file(connection, "training_file", draft.training_file)
            if draft.validation_file is not None:
                await _check_file(connection, "validation_file", draft.validation_file)
            at = await self._clock(connection)
            row = (await connection.execute(insert(jobs).values(**_first_state(draft, at)).returning(*jobs.c))).one()
            for key, value in (draft.metadata or {}).items():
                await connection.execute(insert(job_metadata).values(job_number=row.number, key=key, value=value))
            validated = " and ".join(filter(None, (draft.training_file, draft.validation_file)))
            messages = (f"Created fine-tuning job: {row.id}", f"Validating files: {validated}")
            await rows.add_events(connection, row, at, map(EventDraft, messages))
        return rows.job_value(row)

    async def get(self, job_id: str) -> Job:
        """Return a job.

        Raises:
            JobNotFound: none has this id.
        """
        async with self._database.read() as connection:
            return rows.job_value(await rows.job_row(connection, job_id))

    async def list(
        self, *, after: str | None = None, limit: int = 20, metadata: Mapping[str, str] | None = _NO_FILTER
    ) -> Page[Job]:
        """Return the jobs before ``after``, newest first; only those that carry every pair of ``metadata``.

        ``metadata=None`` asks for jobs that were created without any.

        Raises:
            InvalidField: ``after`` or ``limit`` may not be so.
        """
        where = [jobs.c.metadata.is_(None)] if metadata is None else [_carries(*pair) for pair in metadata.items()]
        async with self._database.read() as connection:
            return await read_page(connection, jobs, rows.job_value, *where, after=after, limit=limit)

    async def unvalidated(self) -> Sequence[Job]:
        """Return the jobs whose files are still to be checked, oldest first: a crash may have left some."""
        statement = select(jobs).where(jobs.c.state == JobState.VALIDATING_FILES).order_by(jobs.c.number)
        async with self._database.read() as connection:
            return [rows.job_value(row) for row in await connection.execute(statement)]

    async def admit(self, job_id: str, method: Json, *, data: Json | None = None) -> Job:
        """Queue a job whose files are in order, with ``method`` as they decided it: "auto" became numbers.

        ``data`` goes into the event: what checking the files has shown.

        Raises:
            JobNotFound: none has this id.
            IllegalTransition: it is not being validated; somebody may have cancelled it.
        """
        return await self._move(Verb.ADMIT, job_id, data=data, method=dict(method))

    async def reject(self, job_id: str, error: Failure, *, data: Json | None = None) -> Job:
        """Fail a job whose files are not in order. ``data`` goes into the event: every fault.

        Raises:
            JobNotFound: none has this id.
            IllegalTransition: it is not being validated; somebody may have cancelled it.
        """
        return await self._move(Verb.REJECT, job_id, data=data, error=asdict(error))

    async def pause(self, job_id: str) -> Job:
        """Pause a job; a running one is ``pausing`` until its worker has saved a checkpoint.

        Raises:
            JobNotFound: none has this id.
            IllegalTransition: it is neither queued nor running.
        """
        return await self._move(Verb.PAUSE, job_id)

    async def resume(self, job_id: str) -> Job:
        """Queue a paused job again, or let one that has not paused yet go on. Its earlier deaths are forgotten.

        Raises:
            JobNotFound: none has this id.
            IllegalTransition: it is neither paused nor pausing.
        """
        return await self._move(Verb.RESUME, job_id, deaths=0)

    async def cancel(self, job_id: str) -> Job:
        """End a job at once; its worker learns of it at the next heartbeat. Its checkpoints stay.

        Raises:
            JobNotFound: none has this id.
            IllegalTransition: it has ended already.
        """
        return await self._move(Verb.CANCEL, job_id)

    async def _move(self, verb: Verb, job_id: str, *, data: Json | None = None, **values: Any) -> Job:
        async with self._database.write() as connection:
            at = await self._clock(connection)
            row = await rows.move(connection, verb, at, jobs.c.id == job_id, **values)
            if row is None:
                raise rows.illegal(verb, await rows.job_row(connection, job_id))
            job = rows.job_value(row)
            message = _DONE[verb, job.state]
            if job.error is not None:
                message = f"{message}: {job.error.message}"
            level = Level.INFO if job.error is None else Level.ERROR
            await rows.add_events(connection, row, at, [EventDraft(message, level, data=data)])
        return job


def _first_state(draft: JobDraft, at: datetime) -> dict[str, Any]:
    return {
        "id": mint("ftjob-"),
        "created_at": at,
        "state": JobState.VALIDATING_FILES,
        "organization_id": draft.organization_id,
        "model": draft.model,
        "training_file": draft.training_file,
        "validation_file": draft.validation_file,
        "method": dict(draft.method),
        "seed": secrets.randbelow(MAX_SEED + 1) if draft.seed is None else draft.seed,
        "suffix": draft.suffix,
        "metadata": None if draft.metadata is None else dict(draft.metadata),
        "integrations": None if draft.integrations is None else list(map(dict, draft.integrations)),
        "extension": dict(draft.extension),
        "token": 0,
        "deaths": 0,
        "events_position": 0,
        "result_files": [],
    }


async def _check_file(connection: AsyncConnection, param: str, file_id: str) -> None:
    """Refuse a file that a job cannot have. The lock keeps it from being deleted until the job is there to need it."""
    this = select(files).where(files.c.id == file_id, files.c.deleted_at.is_(None)).with_for_update()
    row = (await connection.execute(this)).one_or_none()
    if row is None:
        raise InvalidField(f"{param} '{file_id}' does not exist: upload it with purpose 'fine-tune'", param=param)
    if row.purpose != Purpose.FINE_TUNE:
        raise InvalidField(
            f"{param} '{file_id}' has the purpose '{row.purpose}': upload it again with purpose 'fine-tune'",
            param=param,
        )
    if row.status == Status.ERROR:
        raise InvalidField(
            f"{param} '{file_id}' was found faulty ({row.status_details}): upload a corrected one", param=param
        )


def _carries(key: str, value: str) -> ColumnElement[bool]:
    pair = (job_metadata.c.key == key, job_metadata.c.value == value)
    return exists().where(job_metadata.c.job_number == jobs.c.number, *pair)
