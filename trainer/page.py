"""Pages of lists as in OpenAI's API: a number of entries after an id, and whether there are more."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, takewhile
from typing import Any, Final, Generic, TypeVar

from sqlalchemy import ColumnElement, Row, Table, Text, cast, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from trainer.errors import InvalidField

MAX_LIMIT: Final = 10_000
MAX_PAGE_CHARACTERS: Final = 16 << 20

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A page of a list; the next one starts after the id of the last of ``data``."""

    data: tuple[T, ...]
    has_more: bool


async def read_page(
    connection: AsyncConnection,
    table: Table,
    value: Callable[[Row[Any]], T],
    *where: ColumnElement[bool],
    after: str | None,
    limit: int,
    newest_first: bool = True,
    project: str | None = None,
    of: ColumnElement[bool] | None = None,
    by: ColumnElement[Any] | None = None,
    long: Sequence[ColumnElement[Any]] = (),
) -> Page[T]:
    """Return up to ``limit`` rows of ``table`` that follow the one with the id ``after``.

    ``table`` has the columns ``number``, by which it is ordered, and ``id``. ``project``: only its rows; None: all.
    ``of``: whose rows they are, ``after`` included, which may fail ``where``: a row that was deleted since.
    ``by``: the column that orders the rows before ``number`` does. ``long``: columns with texts and JSON that may be
    long: a page ends early where they have more than ``MAX_PAGE_CHARACTERS``, but for one row.

    Raises:
        InvalidField: no row of the list has the id ``after``, or ``limit`` is out of bounds.
    """
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidField(f"limit is a number from 1 to {MAX_LIMIT}", param="limit")
    number = table.c.number
    own = belongs_to(table, project) + ([] if of is None else [of])
    order = [number] if by is None else [by, number]
    wanted = [*where, *own]
    if after is not None:
        last = await number_of(connection, table, after, *own)
        follows = number < last if newest_first else number > last
        if by is not None:
            place = (await connection.execute(select(by).where(number == last))).scalar_one()
            follows = (by < place if newest_first else by > place) | ((by == place) & follows)
        wanted.append(follows)
    columns = [column.desc() if newest_first else column for column in order]
    if long:
        limit = await fitting(connection, limit, long, where=wanted, order=columns)
    rows = (await connection.execute(select(table).where(*wanted).order_by(*columns).limit(limit + 1))).all()
    return Page(tuple(map(value, rows[:limit])), len(rows) > limit)


async def fitting(
    connection: AsyncConnection,
    limit: int,
    long: Sequence[ColumnElement[Any]],
    *,
    where: Sequence[ColumnElement[bool]],
    order: Sequence[ColumnElement[Any]],
) -> int:
    """Return the number of the first ``limit`` rows that have ``MAX_PAGE_CHARACTERS`` in ``long``; at least 1."""
    sizes = [func.length(func.coalesce(cast(column, Text), "")) for column in long]
    found = await connection.execute(select(*sizes).where(*where).order_by(*order).limit(limit))
    sums = accumulate(map(sum, found))
    return max(1, sum(1 for _ in takewhile(lambda characters: characters <= MAX_PAGE_CHARACTERS, sums)))


def belongs_to(table: Table, project: str | None) -> list[ColumnElement[bool]]:
    """Return the condition on rows of ``table`` that they are of ``project``; none for None."""
    return [] if project is None else [table.c.project == project]


async def number_of(connection: AsyncConnection, table: Table, after: str, *where: ColumnElement[bool]) -> int:
    """Return the ``number`` of the row ``where`` that has the id ``after``.

    Raises:
        InvalidField: there is none.
    """
    statement = select(table.c.number).where(table.c.id == after, *where)
    last = (await connection.execute(statement)).scalar_one_or_none()
    if last is None:
        raise InvalidField(
            f"no entry of this list has the id '{after}': leave `after` out for the first page", param="after"
        )
    return int(last)
