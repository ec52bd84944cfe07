"""The key ring as a command uses it. Imports the database and all it takes, so import it where it is needed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from sqlalchemy import make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from adapters.errors import StorageUnavailable
from adapters.storage.database import Database
from server.access.key_ring import KeyRing
from server.cli.failure import CommandFailed, ExitCode

_Result = TypeVar("_Result")


async def act_on_ring(database_url: str, act: Callable[[KeyRing], Awaitable[_Result]]) -> _Result:
    """Open the ring in the database, ``act`` on it, and close it.

    Raises:
        CommandFailed: the database cannot be used.
    """
    try:
        _check_directory(database_url)
        async with Database.open(database_url) as database:
            return await act(await KeyRing.open(database))
    except (StorageUnavailable, SQLAlchemyError, OSError, ImportError) as broken:
        why = broken.orig if isinstance(broken, DBAPIError) else broken
        raise CommandFailed(ExitCode.UNREACHABLE, f"cannot use the database: {why}") from broken


def _check_directory(database_url: str) -> None:
    """Name the directory that a SQLite file lacks: SQLite does not, and aiosqlite's thread would outlive our loop."""
    url = make_url(database_url)
    if url.get_backend_name() == "sqlite" and url.database and not Path(url.database).absolute().parent.is_dir():
        raise CommandFailed(ExitCode.UNREACHABLE, f"cannot use the database: no directory {Path(url.database).parent}")
