"""A database for all packages: snapshot reads, serialised writes, migrations. Any SQLAlchemy URL.

Each package brings its own tables, migrations and version table; they share the engine::

    async with Database.open("sqlite+aiosqlite:///patchbay.db") as database:
        await database.migrate(Path("adapters/registry/migrations"), "alembic_version_adapters")
        async with database.write() as connection:
            ...
"""

from __future__ import annotations

import asyncio
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Final

import structlog
from alembic import command
from alembic.config import Config
from sqlalchemy import DateTime, Dialect, TypeDecorator, event, make_url, text
from sqlalchemy.engine import Connection
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from adapters.errors import StorageUnavailable

ASYNC_DRIVERS: Final = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+psycopg"}
"""The driver for a URL that names none."""

BUSY_TIMEOUT_MS: Final = 10_000
"""How long a SQLite writer waits for the lock before "database is locked"."""

_MIGRATIONS: Final = Path(__file__).parent / "migrations"
_MIGRATION_LOCK: Final = 0x70617463
"""PostgreSQL advisory lock key: processes that start together migrate one at a time."""

_log = structlog.get_logger(__name__)


class UtcDateTime(TypeDecorator[datetime]):
    """Time-zone-aware datetimes, also in a database that stores no time zone (SQLite)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Store in UTC; a naive datetime raises ValueError."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive datetime is ambiguous: attach a time zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class ChangeCounter:
    """SQLite's ``data_version`` of the file at ``path``, read from memory that all its processes share.

    A read takes microseconds; a query through SQLAlchemy and the driver's thread takes milliseconds of CPU time.
    For use by one thread. https://www.sqlite.org/pragma.html#pragma_data_version
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None

    def read(self) -> int | None:
        """Return a counter that changes with every commit, by any connection or process; None if unreadable."""
        try:
            if self._connection is None:
                at = f"{self._path.absolute().as_uri()}?mode=rw"  # does not create the file
                self._connection = sqlite3.connect(at, uri=True, timeout=0, isolation_level=None)
            return int(self._connection.execute("PRAGMA data_version").fetchone()[0])
        except sqlite3.Error:  # the connection stays open: a new one would count anew and might repeat an old value
            return None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()


class Database:
    """An open engine. ``read`` sees one snapshot; ``write`` commits durably at the end of its block."""

    def __init__(self, engine: AsyncEngine, counter: ChangeCounter | None = None) -> None:
        self._counter = counter
        self._is_sqlite = engine.dialect.name == "sqlite"
        self._writer = engine.execution_options(patchbay_begin="BEGIN IMMEDIATE")
        # SQLite reads a snapshot by itself; elsewhere each statement would see its own.
        self._reader = engine if self._is_sqlite else engine.execution_options(isolation_level="REPEATABLE READ")

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[Database]:
        """Open ``url`` (``sqlite:///…``, ``postgresql://…``, with or without an async driver's name)."""
        parsed = make_url(url)
        parsed = parsed.set(drivername=ASYNC_DRIVERS.get(parsed.drivername, parsed.drivername))
        engine = create_async_engine(parsed, pool_pre_ping=parsed.get_backend_name() != "sqlite")
        counter = None
        if engine.dialect.name == "sqlite":
            if parsed.database not in {None, "", ":memory:"} and not parsed.query:
                counter = ChangeCounter(Path(parsed.database))
            event.listen(engine.sync_engine, "connect", _configure_sqlite)
            event.listen(engine.sync_engine, "begin", _begin_sqlite)
            event.listen(engine.sync_engine.pool, "invalidate", _release_sqlite)
        try:
            yield cls(engine, counter)
        finally:
            if counter is not None:
                counter.close()
            await engine.dispose()

    def change_count(self) -> int | None:
        """Return a counter that changes with every commit; None where only a query can tell, as with PostgreSQL.

        A read that follows sees at least the commits that the counter includes.
        """
        return None if self._counter is None else self._counter.read()

    def read(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """Open a read transaction, which sees one snapshot. Raises StorageUnavailable."""
        return _begin(self._reader, at_commit="try again")

    def write(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """Open a write transaction: committed at the end, rolled back when it raises.

        Raises:
            StorageUnavailable: nothing was written; or, if the connection was lost during the commit, the outcome is
                unknown, and the message says so.
        """
        return _begin(self._writer, at_commit="the change may or may not be written: check before you try again")

    async def migrate(self, versions: Path, version_table: str) -> None:
        """Apply one package's migrations up to the newest; safe when many processes start at once.

        Alembic's ``op`` is global: do not run two migrations in one process at the same time.
        """
        async with self.write() as connection:
            if connection.dialect.name == "postgresql":
                await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
            await connection.run_sync(_upgrade, versions, version_table)


class Follower(ABC):
    """Keeps in memory what ``database`` holds, which other processes write too."""

    refresh_failed: ClassVar[str]
    """Event in the log for each failed refresh of ``follow``."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._change_count: int | None = None

    async def refresh(self) -> None:
        """Read the database if anything was committed; costs no query while its change counter stands still."""
        change_count = self.database.change_count()
        if change_count is None or change_count != self._change_count:
            await self._read()
            self._change_count = change_count

    @abstractmethod
    async def _read(self) -> None: ...

    async def follow(self, interval_s: float) -> None:
        """Refresh every ``interval_s`` seconds until cancelled; while the database is away the memory stays."""
        while True:
            await asyncio.sleep(interval_s)
            try:
                await self.refresh()
            except (StorageUnavailable, SQLAlchemyError, OSError) as error:
                _log.warning(self.refresh_failed, error=str(error))


@asynccontextmanager
async def _begin(engine: AsyncEngine, *, at_commit: str) -> AsyncIterator[AsyncConnection]:
    outcome = "nothing was written, try again"
    try:
        async with engine.begin() as connection:
            yield connection
            outcome = at_commit
    except (OperationalError, InterfaceError) as trouble:
        raise StorageUnavailable(f"the database does not answer ({trouble.orig}); {outcome}") from trouble


def _configure_sqlite(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    driver: Any = connection
    driver.isolation_level = None  # the driver must not begin transactions by itself: _begin_sqlite does
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("patchbay_begin", "BEGIN"))


def _release_sqlite(connection: DBAPIConnection, _entry: ConnectionPoolEntry, _error: BaseException | None) -> None:
    # SQLAlchemy closes the connection of a cancelled statement, but SQLite keeps it and its write lock until Python
    # has collected the statement. A rollback releases the lock at once.
    connection.rollback()


def _upgrade(connection: Connection, versions: Path, version_table: str) -> None:
    config = Config()
    for option, value in {
        "script_location": str(_MIGRATIONS),
        "version_locations": str(versions),
        "path_separator": "newline",
    }.items():
        config.set_main_option(option, value.replace("%", "%%"))
    config.attributes.update(connection=connection, version_table=version_table)
    command.upgrade(config, "head")
