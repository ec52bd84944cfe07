"""Whose row of a queue is taken next: projects take turns, so that none waits behind all rows of another."""

from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, Table, case, func, select

_NEVER: Final = datetime(1970, 1, 1, tzinfo=UTC)


def next_number(
    table: Table, *, is_free: ColumnElement[bool], is_held: ColumnElement[bool], served_at: ColumnElement[Any]
) -> Select[tuple[int]]:
    """Return a statement that locks the next free row of ``table`` and gives its ``number``.

    It is the oldest one of the project that has the fewest held rows; of several such projects, of the one that was
    served longest ago, by the column ``served_at``.
    """
    counted = select(
        table.c.project,
        func.sum(case((is_held, 1), else_=0)).label("held"),
        func.coalesce(func.max(served_at), _NEVER).label("served_at"),
    )
    waiting = table.c.project.in_(select(table.c.project).where(is_free))  # nothing is counted while nothing waits
    projects = counted.where(waiting).group_by(table.c.project).subquery()
    return (
        select(table.c.number)
        .join(projects, projects.c.project == table.c.project)
        .where(is_free)
        .order_by(projects.c.held, projects.c.served_at, table.c.number)
        .limit(1)
        .with_for_update(of=table, skip_locked=True)
    )
