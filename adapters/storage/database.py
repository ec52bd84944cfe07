"""A database for all packages, SQLite or PostgreSQL: snapshot reads, serialised writes, migrations.

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
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Final

import structlog
from alembic import command
from alembic.config import Config
from sqlalchemy import URL, DateTime, Dialect, TypeDecorator, event, make_url, text
from sqlalchemy.engine import Connection
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, InterfaceError, InternalError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from adapters.errors import DatabaseUnusable, StorageUnavailable
from adapters.storage.sqlite_file import SqliteFile

ASYNC_DRIVERS: Final = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+psycopg"}
"""The driver for a URL that names none."""

BUSY_TIMEOUT_MS: Final = 10_000
"""How long a SQLite writer waits for the lock before "database is locked"."""

POOL_TIMEOUT_S: Final = 10
"""How long a transaction waits for a connection while all are in use."""

_NOTHING_WRITTEN: Final = "nothing was written, try again"
_ROLLED_BACK: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_FULL})
"""Errors of SQLite that undo the transaction, at its commit too."""
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


class Database:
    """An open engine. ``read`` sees one snapshot; ``write`` commits durably at the end of its block."""

    def __init__(self, engine: AsyncEngine, file: SqliteFile | None = None) -> None:
        self._file = file
        self._is_sqlite = engine.dialect.name == "sqlite"
        self._writer = engine.execution_options(patchbay_begin="BEGIN IMMEDIATE")
        # SQLite reads a snapshot by itself; elsewhere each statement would see its own.
        self._reader = engine if self._is_sqlite else engine.execution_options(isolation_level="REPEATABLE READ")

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[Database]:
        """Open ``url`` (``sqlite:///…``, ``postgresql://…``, with or without an async driver's name).

        Raises:
            DatabaseUnusable: the URL is malformed, its driver is not installed, or SQLite's directory does not exist.
        """
        engine, file = _make_engine(url)
        try:
            yield cls(engine, file)
        finally:
            if file is not None:
                file.close()
            await engine.dispose()

    def change_count(self) -> tuple[int, ...] | None:
        """Return a value that changes with every commit; None where only a query can tell, as with PostgreSQL.

        A read that follows sees at least the commits that the value includes.
        """
        return None if self._file is None else self._file.change_count()

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
                from adapters.storage.postgres import patient  # psycopg is an extra

                async with patient(connection):
                    await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
                    await connection.run_sync(_upgrade, versions, version_table)
            else:
                await connection.run_sync(_upgrade, versions, version_table)


class Follower(ABC):
    """Keeps in memory what ``database`` holds, which other processes write too."""

    refresh_failed: ClassVar[str]
    """Event in the log for each failed refresh of ``follow``."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._change_count: tuple[int, ...] | None = None

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
            await self.try_refresh()

    async def try_refresh(self) -> None:
        """Refresh; a failure is logged, and the memory stays."""
        try:
            await self.refresh()
        except (StorageUnavailable, SQLAlchemyError) as error:
            _log.warning(self.refresh_failed, error=str(error))


def _make_engine(url: str) -> tuple[AsyncEngine, SqliteFile | None]:
    """Return the engine for ``url``, and the file of a SQLite database that has one."""
    try:
        parsed = make_url(url)
        parsed = parsed.set(drivername=ASYNC_DRIVERS.get(parsed.drivername, parsed.drivername))
        if parsed.drivername not in ASYNC_DRIVERS.values():
            raise DatabaseUnusable(
                f"the database URL begins with {parsed.drivername}://: use sqlite:/// with a path, or postgresql://",
                param="database_url",
            )
        if parsed.get_backend_name() == "sqlite":
            return _make_sqlite_engine(parsed)
        arguments: Mapping[str, Any] = {}
        if parsed.drivername == ASYNC_DRIVERS["postgresql"]:
            from adapters.storage.postgres import connect_args  # psycopg is an extra

            arguments = connect_args(parsed)
        engine = create_async_engine(parsed, pool_pre_ping=True, pool_timeout=POOL_TIMEOUT_S, connect_args=arguments)
    except (ArgumentError, ValueError) as malformed:  # ValueError: a port that is no number
        raise DatabaseUnusable(f"the database URL cannot be used: {malformed}", param="database_url") from malformed
    except ImportError as missing:
        extra = "; pip install 'patchbay[postgres]' installs it" if missing.name == "psycopg" else ""
        raise DatabaseUnusable(
            f"the driver of {parsed.drivername}:// is not installed ({missing}){extra}", param="database_url"
        ) from missing
    return engine, None


def _make_sqlite_engine(url: URL) -> tuple[AsyncEngine, SqliteFile | None]:
    file = None
    if url.database not in {None, "", ":memory:"} and not url.query:
        file = SqliteFile(Path(url.database))
        # SQLite does not name a directory that is missing, and the thread of aiosqlite would outlive the event loop.
        if not (directory := file.path.absolute().parent).is_dir():
            raise DatabaseUnusable(f"the database URL names no directory: {directory}", param="database_url")
    engine = create_async_engine(url, **({} if file is None else {"pool_timeout": POOL_TIMEOUT_S}))
    event.listen(engine.sync_engine, "connect", _configure_sqlite)
    event.listen(engine.sync_engine, "begin", _begin_sqlite)
    event.listen(engine.sync_engine.pool, "invalidate", _release_sqlite)
    if file is not None:
        file.watch(engine)
    return engine, file


@asynccontextmanager
async def _begin(engine: AsyncEngine, *, at_commit: str) -> AsyncIterator[AsyncConnection]:
    """Open a transaction. The one place where trouble of the database becomes an error of ours."""
    outcome = _NOTHING_WRITTEN
    try:
        async with engine.begin() as connection:
            yield connection
            outcome = at_commit
    except (OperationalError, InterfaceError, InternalError) as trouble:  # the last: PostgreSQL's ends of transactions
        if getattr(trouble.orig, "sqlite_errorcode", None) in _ROLLED_BACK:
            outcome = _NOTHING_WRITTEN
        reason = str(trouble.orig).strip().partition("\n")[0]
        raise StorageUnavailable(f"the database does not answer ({reason}); {outcome}") from trouble
    except PoolTimeout as busy:
        raise StorageUnavailable(
            f"all connections to the database are in use for {POOL_TIMEOUT_S} s; {_NOTHING_WRITTEN}"
        ) from busy


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
