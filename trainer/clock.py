"""The database's clock, by which all leases, ages and expiries are measured."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from adapters.storage.database import UtcDateTime

Clock = Callable[[AsyncConnection], Awaitable[datetime]]
"""Reads the time inside a transaction. Tests pass one that runs ahead."""


class _Now(FunctionElement[datetime]):
    """The time of the statement, not of the start of its transaction."""

    type = UtcDateTime()
    inherit_cache = True


@compiles(_Now)
def _now(_element: _Now, _compiler: SQLCompiler, **_options: Any) -> str:
    return "clock_timestamp()"


@compiles(_Now, "sqlite")
def _now_sqlite(_element: _Now, _compiler: SQLCompiler, **_options: Any) -> str:
    return "strftime('%Y-%m-%d %H:%M:%f', 'now')"


async def database_clock(connection: AsyncConnection) -> datetime:
    return (await connection.execute(select(_Now()))).scalar_one()
