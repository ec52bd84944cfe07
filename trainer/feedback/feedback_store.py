"""The store of feedback: rows with the prompt and the answers, so that it outlives the stored answers."""

import json
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import delete, func, insert, select

from adapters.storage.database import Database
from trainer.clock import Clock, database_clock
from trainer.errors import FeedbackNotFound
from trainer.feedback.feedback import Feedback, FeedbackDraft
from trainer.page import Page, belongs_to, fitting, read_page
from trainer.schema import feedback as table
from trainer.schema import mint, row_reader

_PAGE: Final = 200
_LONG: Final = ("prompt", "tools", "answers", "correction", "metadata")
_feedback: Final = row_reader(Feedback)


@dataclass(frozen=True, slots=True)
class FeedbackStore:
    """Feedback of all projects. ``project``: only its own; None: all."""

    database: Database
    clock: Clock = database_clock

    async def add(self, draft: FeedbackDraft, *, limit: int) -> Feedback:
        """Store feedback; the project's oldest beyond its newest ``limit`` are deleted."""
        values: dict[str, Any] = {**asdict(draft), "id": mint("feedback-")}
        async with self.database.write() as connection:
            at = await self.clock(connection)
            stored = {**values, "created_at": at, "size_bytes": size_of(draft)}
            row = (await connection.execute(insert(table).values(stored).returning(*table.c))).one()
            own, number = table.c.project == draft.project, table.c.number
            newest = select(number).where(own).order_by(number.desc()).offset(limit).limit(1)
            if (last := (await connection.execute(newest)).scalar()) is not None:
                await connection.execute(delete(table).where(own, number <= last))
        return _feedback(row)

    async def get(self, feedback_id: str, project: str | None = None) -> Feedback:
        """Return feedback; raises FeedbackNotFound."""
        async with self.database.read() as connection:
            where = (table.c.id == feedback_id, *belongs_to(table, project))
            row = (await connection.execute(select(table).where(*where))).one_or_none()
        if row is None:
            raise _missing(feedback_id)
        return _feedback(row)

    async def list(
        self, *, after: str | None = None, limit: int = 20, newest_first: bool = True, project: str | None = None
    ) -> Page[Feedback]:
        """Return the feedback that follows the one with the id ``after``; raises InvalidField as ``read_page``."""
        paging: dict[str, Any] = {"after": after, "limit": limit, "newest_first": newest_first, "project": project}
        async with self.database.read() as connection:
            return await read_page(connection, table, _feedback, **paging, long=[table.c[name] for name in _LONG])

    async def delete(self, feedback_id: str, project: str | None = None) -> None:
        """Delete feedback; raises FeedbackNotFound."""
        async with self.database.write() as connection:
            where = (table.c.id == feedback_id, *belongs_to(table, project))
            if not (await connection.execute(delete(table).where(*where))).rowcount:
                raise _missing(feedback_id)

    async def since(self, moment: datetime | None, project: str) -> AsyncIterator[Feedback]:
        """Yield the project's feedback from ``moment`` on, the oldest first; some rows in memory at a time."""
        where = [table.c.project == project] + ([] if moment is None else [table.c.created_at >= moment])
        last, long = 0, [table.c[name] for name in _LONG]
        while True:
            rest, order = [*where, table.c.number > last], [table.c.number]
            async with self.database.read() as connection:
                limit = await fitting(connection, _PAGE, long, where=rest, order=order)
                rows = (await connection.execute(select(table).where(*rest).order_by(*order).limit(limit))).all()
            if not rows:
                return
            for row in rows:
                yield _feedback(row)
            last = rows[-1].number

    async def sweep(self, max_age_s: float) -> int:
        """Delete the feedback that is older; return its number."""
        async with self.database.write() as connection:
            old = table.c.created_at <= await self.clock(connection) - timedelta(seconds=max_age_s)
            return (await connection.execute(delete(table).where(old))).rowcount

    async def stored_bytes(self, project: str) -> int:
        """Return the bytes of the feedback of ``project``."""
        total = select(func.coalesce(func.sum(table.c.size_bytes), 0)).where(table.c.project == project)
        async with self.database.read() as connection:
            return int((await connection.execute(total)).scalar_one())


def size_of(draft: FeedbackDraft) -> int:
    """Return the bytes that ``draft`` takes."""
    return len(json.dumps(asdict(draft)))


def _missing(feedback_id: str) -> FeedbackNotFound:
    return FeedbackNotFound(
        f"no feedback has the id '{feedback_id:.100}': GET /v1/feedback lists what there is", param="feedback_id"
    )
