"""The jobs' SQL, one function a statement or two, inside a transaction that a store opened.

Each change of a job's state updates its row before anything else is written about it. The row's lock then lets one
writer at a time write about a job, so that the numbers of its events are in the order in which they become visible.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, case, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from trainer.errors import IllegalTransition, JobNotFound
from trainer.ids import mint
from trainer.jobs.checkpoint import Checkpoint, CheckpointDraft
from trainer.jobs.event import Event, EventDraft, Kind, Level, finite
from trainer.jobs.job import Failure, Job
from trainer.jobs.state import HELD, JOB_STATES, JobState, Verb
from trainer.schema import job_checkpoints, job_events, jobs

AnyRow = Row[Any]

_LET_GO: Final = {"worker": None, "lease_until": None, "estimated_finish": None}


async def move(
    connection: AsyncConnection, verb: Verb, at: datetime, *where: ColumnElement[bool], **values: Any
) -> AnyRow | None:
    """Do ``verb`` to the one job that ``where`` names and return its new row; None if its state does not allow it."""
    edges = JOB_STATES.moves[verb]
    targets = set(edges.values())
    if not targets & HELD:
        values |= _LET_GO
    if targets <= JOB_STATES.terminal:
        values |= {"finished_at": at}
    statement = (
        update(jobs)
        .where(jobs.c.state.in_(edges), *where)
        .values(state=case(dict(edges), value=jobs.c.state), **values)
        .returning(*jobs.c)
    )
    return (await connection.execute(statement)).one_or_none()


async def job_row(connection: AsyncConnection, job_id: str) -> AnyRow:
    """Return the row of a job.

    Raises:
        JobNotFound: none has this id.
    """
    row = (await connection.execute(select(jobs).where(jobs.c.id == job_id))).one_or_none()
    if row is None:
        raise JobNotFound(
            f"no fine-tuning job has the id '{job_id}'; list the jobs to see which exist", param="fine_tuning_job_id"
        )
    return row


def illegal(verb: Verb, row: AnyRow) -> IllegalTransition:
    """Return the error for a verb that the state of ``row`` does not allow."""
    asked = [
        verb.value for verb in JOB_STATES.verbs(JobState(row.state)) if verb in (Verb.PAUSE, Verb.RESUME, Verb.CANCEL)
    ]
    allowed = ", ".join(asked) or "nothing"
    return IllegalTransition(
        f"job '{row.id}' is {row.state}, so nobody can {verb} it; what may be asked of it now: {allowed}",
        status=row.state,
    )


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


async def add_checkpoint(connection: AsyncConnection, job: AnyRow, at: datetime, draft: CheckpointDraft) -> bool:
    """Note a checkpoint; False if the job has one of that step already, as an attempt that resumes further back has."""
    same = (job_checkpoints.c.job_number == job.number, job_checkpoints.c.step_number == draft.step_number)
    if (await connection.execute(select(job_checkpoints.c.number).where(*same))).first() is not None:
        return False
    await connection.execute(
        insert(job_checkpoints).values(
            id=mint("ftckpt_"),
            job_number=job.number,
            created_at=at,
            step_number=draft.step_number,
            model=draft.model,
            metrics=finite(draft.metrics),
        )
    )
    data = {"step": draft.step_number, "fine_tuned_model_checkpoint": draft.model}
    message = f"Checkpoint created at step {draft.step_number}"
    await add_events(connection, job, at, [EventDraft(message, data=data)])
    return True


def job_value(row: AnyRow) -> Job:
    """Return a row of ``jobs`` as a value."""
    facts = row._asdict()
    del facts["number"], facts["lease_until"]
    error = None if row.error is None else Failure(**row.error)
    return Job(**{**facts, "state": JobState(row.state), "result_files": tuple(row.result_files), "error": error})


def event_value(row: AnyRow) -> Event:
    """Return a row of ``job_events`` as a value."""
    return Event(row.id, row.created_at, Level(row.level), Kind(row.type), row.message, row.data)


def checkpoint_value(job_id: str, row: AnyRow) -> Checkpoint:
    """Return a row of ``job_checkpoints`` as a value."""
    return Checkpoint(row.id, row.created_at, job_id, row.step_number, row.model, row.metrics)
