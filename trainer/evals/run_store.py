"""The store of the runs of evals: created, read, cancelled and deleted by callers.

``trainer.evals.run_queue`` is the side of the processes that work on them.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from sqlalchemy import Row, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.fair_places import FairPlaces
from adapters.storage.database import Database
from trainer.clock import Clock, database_clock
from trainer.errors import EvalItemNotFound, EvalNotFound, EvalRunNotFound, IllegalTransition
from trainer.evals.objects import Eval, EvalItem, EvalRun, EvalRunDraft, ItemStatus, SourceItem
from trainer.evals.state import UNFINISHED, EvalRunState
from trainer.page import Page, read_page
from trainer.schema import eval_items, eval_runs, evals, mint, row_reader

AT_ONCE: Final = 500
"""Items written by one statement."""
CREATED_AT_ONCE: Final = 2
_LONG: Final = ("item", "answer", "sample", "results")
"""Columns of an item that may be long."""

run_of: Final = row_reader(EvalRun)
item_of: Final = row_reader(EvalItem)


@dataclass(frozen=True, slots=True)
class EvalRunStore:
    """The runs in a database that several processes may share.

    Each method with ``run_id`` raises EvalRunNotFound for one that the eval does not have.
    """

    database: Database
    clock: Clock = database_clock
    creating: FairPlaces = field(default_factory=lambda: FairPlaces(CREATED_AT_ONCE), compare=False)
    """Places for those who read the items of a new run: a file of them takes ten times its size in memory."""

    async def create(self, of: Eval, draft: EvalRunDraft, items: Sequence[SourceItem], size_bytes: int) -> EvalRun:
        """Create a run in ``queued`` with its items. ``size_bytes``: of the items, and of the messages about them.

        Raises:
            EvalNotFound: the eval was deleted meanwhile.
        """
        async with self.database.write() as connection:
            is_eval = select(evals.c.number).where(evals.c.id == of.id).with_for_update()
            if (await connection.execute(is_eval)).one_or_none() is None:
                raise EvalNotFound(f"eval '{of.id}' was deleted", param="eval_id")
            at = await self.clock(connection)
            values = {
                **asdict(draft),
                "id": mint("evalrun_"),
                "project": of.project,
                "created_at": at,
                "eval_id": of.id,
                "state": EvalRunState.QUEUED,
                "size_bytes": size_bytes,
                "total": len(items),
                **dict.fromkeys(("token", "passed", "failed", "errored"), 0),
                "per_criterion": [{"passed": 0, "failed": 0} for _ in of.testing_criteria],
                "per_model": {},
            }
            row = (await connection.execute(insert(eval_runs).values(values).returning(*eval_runs.c))).one()
            rows = [
                {
                    "id": mint("outputitem_"),
                    "run_number": row.number,
                    "created_at": at,
                    "position": position,
                    "item": each.item,
                    "answer": each.answer,
                    "status": ItemStatus.PENDING,
                }
                for position, each in enumerate(items)
            ]
            for start in range(0, len(rows), AT_ONCE):
                await connection.execute(insert(eval_items), rows[start : start + AT_ONCE])
        return run_of(row)

    async def get(self, eval_id: str, run_id: str) -> EvalRun:
        async with self.database.read() as connection:
            return run_of(await _existing(connection, eval_id, run_id))

    async def list(
        self,
        eval_id: str,
        *,
        after: str | None = None,
        limit: int = 20,
        newest_first: bool = False,
        state: EvalRunState | None = None,
    ) -> Page[EvalRun]:
        """Return the runs of an eval that follow the one with the id ``after``, of one state or of all.

        Raises:
            InvalidField: no run has the id ``after``, or ``limit`` is out of bounds.
        """
        where = [] if state is None else [eval_runs.c.state == state]
        paging: dict[str, Any] = {"after": after, "limit": limit, "newest_first": newest_first}
        async with self.database.read() as connection:
            of, long = eval_runs.c.eval_id == eval_id, (eval_runs.c.data_source,)
            return await read_page(connection, eval_runs, run_of, *where, of=of, long=long, **paging)

    async def cancel(self, eval_id: str, run_id: str) -> EvalRun:
        """End a run at once with the results it has by now; one that is canceled stays so.

        Raises:
            IllegalTransition: the run has ended otherwise.
        """
        async with self.database.write() as connection:
            at = await self.clock(connection)
            is_open = (eval_runs.c.eval_id == eval_id, eval_runs.c.id == run_id, eval_runs.c.state.in_(UNFINISHED))
            ended = {"state": EvalRunState.CANCELED, "finished_at": at, "worker": None, "lease_until": None}
            statement = update(eval_runs).where(*is_open).values(ended).returning(*eval_runs.c)
            row = (await connection.execute(statement)).one_or_none()
            if row is None:
                row = await _existing(connection, eval_id, run_id)
                if row.state != EvalRunState.CANCELED:
                    raise IllegalTransition(
                        f"run '{run_id}' is {row.state}, which does not allow cancel", status=row.state
                    )
        return run_of(row)

    async def delete(self, eval_id: str, run_id: str) -> None:
        """Delete a run with its items; a process that works on it stops."""
        async with self.database.write() as connection:
            run = await _existing(connection, eval_id, run_id, locks=True)
            await connection.execute(delete(eval_items).where(eval_items.c.run_number == run.number))
            await connection.execute(delete(eval_runs).where(eval_runs.c.number == run.number))

    async def items(
        self,
        run: EvalRun,
        *,
        after: str | None = None,
        limit: int = 20,
        newest_first: bool = False,
        status: ItemStatus | None = None,
    ) -> Page[EvalItem]:
        """Return the items with results that follow the one with the id ``after``, of one status or of all.

        Raises:
            InvalidField: no item has the id ``after``, or ``limit`` is out of bounds.
        """
        has_status = eval_items.c.status != ItemStatus.PENDING if status is None else eval_items.c.status == status
        paging: dict[str, Any] = {"after": after, "limit": limit, "newest_first": newest_first}
        async with self.database.read() as connection:
            of, long = eval_items.c.run_number == run.number, [eval_items.c[name] for name in _LONG]
            return await read_page(connection, eval_items, item_of, has_status, of=of, long=long, **paging)

    async def item(self, run: EvalRun, item_id: str) -> EvalItem:
        """Return one item with results.

        Raises:
            EvalItemNotFound: the run has none with this id.
        """
        is_it = (eval_items.c.id == item_id, eval_items.c.run_number == run.number)
        statement = select(eval_items).where(*is_it, eval_items.c.status != ItemStatus.PENDING)
        async with self.database.read() as connection:
            row = (await connection.execute(statement)).one_or_none()
        if row is None:
            raise EvalItemNotFound(
                f"run '{run.id}' has no output item '{item_id:.100}'; list its output items", param="output_item_id"
            )
        return item_of(row)

    async def stored_bytes(self, project: str) -> int:
        """Return the bytes of the items of all runs of ``project``."""
        total = select(func.coalesce(func.sum(eval_runs.c.size_bytes), 0)).where(eval_runs.c.project == project)
        async with self.database.read() as connection:
            return int((await connection.execute(total)).scalar_one())


async def _existing(connection: AsyncConnection, eval_id: str, run_id: str, *, locks: bool = False) -> Row[Any]:
    statement = select(eval_runs).where(eval_runs.c.eval_id == eval_id, eval_runs.c.id == run_id)
    row = (await connection.execute(statement.with_for_update() if locks else statement)).one_or_none()
    if row is None:
        raise EvalRunNotFound(
            f"the eval has no run with the id '{run_id:.100}'; list its runs to see which exist", param="run_id"
        )
    return row
