"""The store of evals."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.storage.database import Database
from trainer.clock import Clock, database_clock
from trainer.errors import EvalNotFound
from trainer.evals.objects import Eval, EvalDraft
from trainer.page import Page, belongs_to, read_page
from trainer.schema import eval_items, eval_runs, evals, mint, row_reader

_eval: Final = row_reader(Eval)


@dataclass(frozen=True, slots=True)
class EvalStore:
    """The evals in a database that several processes may share.

    Each method with ``eval_id`` raises EvalNotFound for an unknown one. ``project``: only its evals; None: all.
    """

    database: Database
    clock: Clock = database_clock

    async def create(self, draft: EvalDraft) -> Eval:
        async with self.database.write() as connection:
            at = await self.clock(connection)
            values = {**asdict(draft), "id": mint("eval_"), "created_at": at, "updated_at": at}
            return _eval((await connection.execute(insert(evals).values(values).returning(*evals.c))).one())

    async def get(self, eval_id: str, project: str | None = None) -> Eval:
        async with self.database.read() as connection:
            statement = select(evals).where(evals.c.id == eval_id, *belongs_to(evals, project))
            row = (await connection.execute(statement)).one_or_none()
        if row is None:
            raise _not_found(eval_id)
        return _eval(row)

    async def list(
        self,
        *,
        after: str | None = None,
        limit: int = 20,
        newest_first: bool = False,
        by_update: bool = False,
        project: str | None = None,
    ) -> Page[Eval]:
        """Return the evals that follow the one with the id ``after``, by their creation or by their last update.

        Raises:
            InvalidField: no eval has the id ``after``, or ``limit`` is out of bounds.
        """
        by = evals.c.updated_at if by_update else None
        long = (evals.c.data_source_config, evals.c.testing_criteria)
        order: dict[str, Any] = {"newest_first": newest_first, "by": by, "long": long}
        async with self.database.read() as connection:
            return await read_page(connection, evals, _eval, after=after, limit=limit, project=project, **order)

    async def update(self, eval_id: str, values: Mapping[str, Any]) -> Eval:
        """Change the name or the metadata of an eval."""
        async with self.database.write() as connection:
            changed = {**values, "updated_at": await self.clock(connection)}
            statement = update(evals).where(evals.c.id == eval_id).values(changed).returning(*evals.c)
            row = (await connection.execute(statement)).one_or_none()
        if row is None:
            raise _not_found(eval_id)
        return _eval(row)

    async def delete(self, eval_id: str) -> None:
        """Delete an eval with its runs; processes that work on one of them stop."""
        async with self.database.write() as connection:
            await _lock(connection, eval_id)
            runs = select(eval_runs.c.number).where(eval_runs.c.eval_id == eval_id)
            await connection.execute(delete(eval_items).where(eval_items.c.run_number.in_(runs)))
            await connection.execute(delete(eval_runs).where(eval_runs.c.eval_id == eval_id))
            await connection.execute(delete(evals).where(evals.c.id == eval_id))


async def _lock(connection: AsyncConnection, eval_id: str) -> None:
    statement = select(evals.c.number).where(evals.c.id == eval_id).with_for_update()
    if (await connection.execute(statement)).one_or_none() is None:
        raise _not_found(eval_id)


def _not_found(eval_id: str) -> EvalNotFound:
    return EvalNotFound(f"no eval has the id '{eval_id:.100}'; list the evals to see which exist", param="eval_id")
