"""The checkpoints that jobs made, and who else may use them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from sqlalchemy import delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.storage.database import Database
from trainer.clock import Clock, database_clock
from trainer.errors import CheckpointNotFound, InvalidField, PermissionNotFound
from trainer.ids import mint
from trainer.jobs import rows
from trainer.jobs.checkpoint import Checkpoint, Permission
from trainer.page import Page, read_page
from trainer.schema import checkpoint_permissions, job_checkpoints

MAX_PROJECT_ID_LENGTH = 128


class CheckpointStore:
    """Checkpoints are written by the queue's ``record``; permissions are given and taken here."""

    def __init__(self, database: Database, *, clock: Clock = database_clock) -> None:
        self._database = database
        self._clock = clock

    async def list(self, job_id: str, *, after: str | None = None, limit: int = 10) -> Page[Checkpoint]:
        """Return the job's checkpoints before the one with the id ``after``, newest first.

        Raises:
            JobNotFound: no job has this id.
            InvalidField: ``after`` or ``limit`` may not be so.
        """
        async with self._database.read() as connection:
            job = await rows.job_row(connection, job_id)
            its, value = job_checkpoints.c.job_number == job.number, partial(rows.checkpoint_value, job_id)
            return await read_page(connection, job_checkpoints, value, its, after=after, limit=limit)

    async def permit(self, model: str, project_ids: Sequence[str]) -> tuple[Permission, ...]:
        """Let projects use the checkpoint ``model``; one that may already keeps the permission it has.

        Raises:
            CheckpointNotFound: no job made it.
            InvalidField: a project's id is empty or too long.
        """
        if not all(0 < len(project_id) <= MAX_PROJECT_ID_LENGTH for project_id in project_ids):
            raise InvalidField(f"a project's id has 1 to {MAX_PROJECT_ID_LENGTH} characters", param="project_ids")
        async with self._database.write() as connection:
            await _check_checkpoint(connection, model, is_changing=True)
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
            InvalidField: ``after`` or ``limit`` may not be so.
        """
        where = [checkpoint_permissions.c.model == model]
        if project_id is not None:
            where.append(checkpoint_permissions.c.project_id == project_id)
        async with self._database.read() as connection:
            await _check_checkpoint(connection, model)
            return await read_page(
                connection,
                checkpoint_permissions,
                _permission,
                *where,
                after=after,
                limit=limit,
                newest_first=newest_first,
            )

    async def forbid(self, model: str, permission_id: str) -> None:
        """Take a permission back.

        Raises:
            PermissionNotFound: the checkpoint has none with this id.
        """
        this = (checkpoint_permissions.c.id == permission_id, checkpoint_permissions.c.model == model)
        async with self._database.write() as connection:
            if (await connection.execute(delete(checkpoint_permissions).where(*this))).rowcount != 1:
                raise PermissionNotFound(
                    f"checkpoint '{model}' has no permission '{permission_id}'; list them to see which exist",
                    param="permission_id",
                )

    async def _permit(self, connection: AsyncConnection, model: str, project_id: str) -> Permission:
        its = {"model": model, "project_id": project_id}
        table = checkpoint_permissions
        same = select(table).where(table.c.model == model, table.c.project_id == project_id)
        row = (await connection.execute(same)).one_or_none()
        if row is None:
            new = insert(table).values(id=mint("cp_"), created_at=await self._clock(connection), **its)
            row = (await connection.execute(new.returning(*table.c))).one()
        return _permission(row)


async def _check_checkpoint(connection: AsyncConnection, model: str, *, is_changing: bool = False) -> None:
    """Refuse a model that no job made. Who changes its permissions locks it, so that they take turns."""
    statement = select(job_checkpoints.c.number).where(job_checkpoints.c.model == model).limit(1)
    if is_changing:
        statement = statement.with_for_update()
    if (await connection.execute(statement)).first() is None:
        raise CheckpointNotFound(
            f"no job made a checkpoint named '{model}'; list a job's checkpoints to see their names",
            param="fine_tuned_model_checkpoint",
        )


def _permission(row: rows.AnyRow) -> Permission:
    return Permission(row.id, row.created_at, row.model, row.project_id)
