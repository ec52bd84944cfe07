"""SQL on the rows of jobs, for use inside a transaction that a store opened.

Each change of a job's state updates the job's row before anything else is written about the job. The lock on that row
lets one writer at a time write about a job, so that its events are numbered in the order in which they become visible.
"""

from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, case, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from trainer.errors import IllegalTransition, JobNotFound, LeaseLost
from trainer.jobs.job import Job
from trainer.jobs.state import HELD, JOB_STATES, JobState, Verb
from trainer.schema import jobs, row_reader

AnyRow = Row[Any]

job_of: Final = row_reader(Job)
_RELEASED: Final = {"worker": None, "lease_until": None, "estimated_finish": None}


async def move(
    connection: AsyncConnection, verb: Verb, at: datetime, *where: ColumnElement[bool], **values: Any
) -> AnyRow | None:
    """Apply ``verb`` to the one job that ``where`` selects; return its new row, None if its state does not allow it."""
    edges = JOB_STATES.moves[verb]
    targets = set(edges.values())
    if not targets & HELD:
        values |= _RELEASED
    if targets <= JOB_STATES.terminal:
        values |= {"finished_at": at}
    statement = (
        update(jobs)
        .where(jobs.c.state.in_(edges), *where)
        .values(state=case(dict(edges), value=jobs.c.state), **values)
        .returning(*jobs.c)
    )
    return (await connection.execute(statement)).one_or_none()


async def job_row(connection: AsyncConnection, job_id: str, *where: ColumnElement[bool]) -> AnyRow:
    """Return the row of a job that ``where`` selects.

    Raises:
        JobNotFound: no such job has this id.
    """
    row = (await connection.execute(select(jobs).where(jobs.c.id == job_id, *where))).one_or_none()
    if row is None:
        raise JobNotFound(
            f"no fine-tuning job has the id '{job_id}'; list the jobs to see which exist", param="fine_tuning_job_id"
        )
    return row


def is_trained_in(store: str, base: str | None) -> list[ColumnElement[bool]]:
    """Return the condition that a job's files lie in ``store`` and that it is for the base model with this fingerprint.

    ``base`` None: for any. Jobs of older releases name neither, and are taken for both.
    """
    places = [(jobs.c.store, store)] + ([] if base is None else [(jobs.c.base_fingerprint, base)])
    return [column.is_(None) | (column == value) for column, value in places]


def illegal(verb: Verb, row: AnyRow) -> IllegalTransition:
    """Return the error for a verb that the state of ``row`` does not allow."""
    requests = {Verb.PAUSE, Verb.RESUME, Verb.CANCEL}
    allowed = ", ".join(verb for verb in JOB_STATES.verbs(JobState(row.state)) if verb in requests)
    return IllegalTransition(
        f"job '{row.id}' is {row.state}, which does not allow {verb}; allowed now: {allowed or 'nothing'}",
        status=row.state,
    )


def check_publishable(job: Job, claim: int | None) -> None:
    """Check that what ``job`` made may be published. ``claim``: token of the worker's claim; None: not compared.

    Raises:
        IllegalTransition: it was cancelled.
        LeaseLost: the worker does not hold it any more.
    """
    if job.state is JobState.CANCELLED:
        raise IllegalTransition(
            f"job '{job.id}' was cancelled: nothing of it is published any more; its published checkpoints stay",
            status=JobState.CANCELLED,
        )
    if claim is not None and (job.token != claim or job.state not in HELD):
        raise LeaseLost(
            f"job '{job.id}' is {job.state}, and its last attempt was {job.token}: attempt {claim} lost it, so that "
            "nothing of that is published"
        )
