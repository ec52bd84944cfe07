"""The checkpoints of jobs: published models of steps, and the permissions that OpenAI's clients record on them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Final

from sqlalchemy import delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.storage.database import Database
from trainer.clock import Clock, database_clock
from trainer.errors import CheckpointNotFound, InvalidField, PermissionNotFound
from trainer.jobs.events import EventDraft, add_events, finite
from trainer.jobs.rows import AnyRow, job_row
from trainer.page import Page, belongs_to, read_page
from trainer.schema import checkpoint_permissions, job_checkpoints, jobs, mint, row_reader

MAX_PROJECT_ID_LENGTH: Final = 128


@dataclass(frozen=True, slots=True)
class CheckpointDraft:
    """A checkpoint to record, after its model was published. ``metrics``: OpenAI's names, and more."""

    step_number: int
    model: str
    """The name it is served under, ``…:ckpt-step-N``."""
    metrics: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Checkpoint(CheckpointDraft):
    """A checkpoint of a job; it never changes."""

    id: str
    created_at: datetime
    job_id: str


@dataclass(frozen=True, slots=True)
class Permission:
    """A recorded permission of the project ``project_id`` on the checkpoint ``model``."""

    id: str
    created_at: datetime
    model: str
    project_id: str


_permission: Final = row_reader(Permission)


@dataclass(frozen=True, slots=True)
class CheckpointStore:
    """The checkpoints of all jobs (``Queue.record`` writes them), and the permissions on them.

    Permissions are records without effect: what another project may use is decided by the shares of adapters.
    """

    database: Database
    clock: Clock = database_clock

    async def list(self, job_id: str, *, after: str | None = None, limit: int = 10) -> Page[Checkpoint]:
        """Return the job's checkpoints before the one with the id ``after``, newest first.

        Raises:
            JobNotFound: no job has this id.
            InvalidField: no checkpoint has the id ``after``, or ``limit`` is out of bounds.
        """
        async with self.database.read() as connection:
            of_job = job_checkpoints.c.job_number == (await job_row(connection, job_id)).number
            value = partial(_checkpoint, job_id)
            return await read_page(connection, job_checkpoints, value, of=of_job, after=after, limit=limit)

    async def check(self, model: str, project: str | None) -> None:
        """Check that a job of ``project``, None: of any, made the checkpoint ``model``; else CheckpointNotFound."""
        of_job = select(job_checkpoints.c.number).join(jobs, jobs.c.number == job_checkpoints.c.job_number)
        made = of_job.where(job_checkpoints.c.model == model, *belongs_to(jobs, project)).limit(1)
        async with self.database.read() as connection:
            if (await connection.execute(made)).first() is None:
                raise _missing(model)

    async def permit(self, model: str, project_ids: Sequence[str]) -> tuple[Permission, ...]:
        """Record permissions on the checkpoint ``model``; a project that has one keeps it. Return one for each project.

        Raises:
            CheckpointNotFound: no job made it.
            InvalidField: a project's id is empty or too long.
        """
        if not all(0 < len(project_id) <= MAX_PROJECT_ID_LENGTH for project_id in project_ids):
            raise InvalidField(f"a project's id has 1 to {MAX_PROJECT_ID_LENGTH} characters", param="project_ids")
        async with self.database.write() as connection:
            await _check_checkpoint(connection, model, is_locked=True)
            return tuple([await self._permit(connection, model, project_id) for project_id in project_ids])

    async def permissions(
        self,
        model: str,
        *,
        after: str | None = None,
        limit: int = 10,
        newest_first: bool = True,
        project_id: str | None = None,
    ) -> Page[Permission]:
        """Return the permissions on the checkpoint ``model`` that follow the one with the id ``after``.

        Raises:
            CheckpointNotFound: no job made it.
            InvalidField: no permission has the id ``after``, or ``limit`` is out of bounds.
        """
        table = checkpoint_permissions
        where = [] if project_id is None else [table.c.project_id == project_id]
        async with self.database.read() as connection:
            await _check_checkpoint(connection, model)
            return await read_page(
                connection,
                table,
                _permission,
                *where,
                of=table.c.model == model,
                after=after,
                limit=limit,
                newest_first=newest_first,
            )

    async def forbid(self, model: str, permission_id: str) -> None:
        """Delete a permission.

        Raises:
            PermissionNotFound: the checkpoint has none with this id.
        """
        table = checkpoint_permissions
        statement = delete(table).where(table.c.id == permission_id, table.c.model == model)
        async with self.database.write() as connection:
            if (await connection.execute(statement)).rowcount != 1:
                raise PermissionNotFound(
                    f"checkpoint '{model}' has no permission '{permission_id}'; list them to see which exist",
                    param="permission_id",
                )

    async def _permit(self, connection: AsyncConnection, model: str, project_id: str) -> Permission:
        table, key = checkpoint_permissions, {"model": model, "project_id": project_id}
        row = (await connection.execute(select(table).filter_by(**key))).one_or_none()
        if row is None:
            new = insert(table).values(id=mint("cp_"), created_at=await self.clock(connection), **key)
            row = (await connection.execute(new.returning(*table.c))).one()
        return _permission(row)


async def add_checkpoint(connection: AsyncConnection, job: AnyRow, at: datetime, draft: CheckpointDraft) -> bool:
    """Record a checkpoint and its event.

    False where the job has a checkpoint of that step already: an attempt that resumed at an earlier step repeats some.
    """
    key = {"job_number": job.number, "step_number": draft.step_number}
    if (await connection.execute(select(job_checkpoints.c.number).filter_by(**key))).first() is not None:
        return False
    await connection.execute(
        insert(job_checkpoints).values(
            id=mint("ftckpt_"), created_at=at, model=draft.model, metrics=finite(draft.metrics), **key
        )
    )
    data = {"step": draft.step_number, "fine_tuned_model_checkpoint": draft.model}
    message = f"Checkpoint created at step {draft.step_number}"
    await add_events(connection, job, at, [EventDraft(message, data=data)])
    return True


async def _check_checkpoint(connection: AsyncConnection, model: str, *, is_locked: bool = False) -> None:
    """Refuse a model that no job made; ``is_locked``: changes to its permissions come one after the other."""
    statement = select(job_checkpoints.c.number).where(job_checkpoints.c.model == model).limit(1)
    if is_locked:
        statement = statement.with_for_update()
    if (await connection.execute(statement)).first() is None:
        raise _missing(model)


def _missing(model: str) -> CheckpointNotFound:
    return CheckpointNotFound(
        f"no job made a checkpoint named '{model}'; list a job's checkpoints to see their names",
        param="fine_tuned_model_checkpoint",
    )


def _checkpoint(job_id: str, row: AnyRow) -> Checkpoint:
    return Checkpoint(row.step_number, row.model, row.metrics, row.id, row.created_at, job_id)
