"""The file of a SQLite database: its counter of commits, and whether another file was put in its place."""

import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import Dialect, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from adapters.errors import StorageUnavailable

Identity = tuple[int, int]
"""Device and inode of a file: a file renamed to the same path has another one."""

_FILE = "patchbay_file"
"""Where a connection's pool entry has the identity of its file."""


class SqliteFile:
    """The database at ``path``, which may be replaced while connections to it are open.

    SQLite's own connections go on with the file that they opened, although it has no name any more: what is written
    through them is lost. So each connection is compared with the path before it is used.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: Identity | None = None
        self._log: Identity | None = None  # of the write-ahead log of the file that was seen last
        self._counter: sqlite3.Connection | None = None
        self._counted: Identity | None = None  # the file that the counter's connection has open

    def watch(self, engine: AsyncEngine) -> None:
        """Let ``engine`` use no connection to a file that was replaced."""
        event.listen(engine.sync_engine, "do_connect", self._before_connect)
        event.listen(engine.sync_engine, "checkout", self._at_checkout)

    def change_count(self) -> tuple[int, ...] | None:
        """Return a value that changes with every commit, by any connection or process; None if unreadable.

        It is the file's identity and SQLite's ``data_version``, which is in memory that all processes share: reading
        it takes microseconds, where a query through SQLAlchemy and the driver's thread takes milliseconds of CPU
        time. For use by one thread. https://www.sqlite.org/pragma.html#pragma_data_version
        """
        identity = _identity(self.path)
        if identity is None:
            return None
        try:
            if self._counter is None or identity != self._counted:
                self.close()
                at = f"{self.path.absolute().as_uri()}?mode=rw"  # does not create the file
                self._counter = sqlite3.connect(at, uri=True, timeout=0, isolation_level=None)
                self._counted = identity
            return *identity, int(self._counter.execute("PRAGMA data_version").fetchone()[0])
        except sqlite3.Error:  # the connection stays open: a new one would count anew and might repeat an old value
            return None

    def close(self) -> None:
        if self._counter is not None:
            self._counter.close()
            self._counter = None

    def _before_connect(self, _dialect: Dialect, entry: ConnectionPoolEntry, *_arguments: Any) -> None:
        # Before the file is opened: if it is replaced in between, the first checkout sees another identity.
        identity = _identity(self.path)
        if identity != self._seen and self._seen is not None:
            self._refuse_a_mixture(identity)
        entry.info[_FILE] = identity

    def _refuse_a_mixture(self, identity: Identity | None) -> None:
        """Raise StorageUnavailable if SQLite would make a new file, or mix the new file with the old one's log."""
        if identity is None:
            raise StorageUnavailable(f"the database {self.path} is gone: put it back, or restore a backup there")
        log = Path(f"{self.path}-wal")
        if self._log is not None and _identity(log) == self._log:
            raise StorageUnavailable(
                f"the database {self.path} was replaced, and SQLite would mix it with the old one's {log.name}: remove "
                f"{log} and {self.path}-shm, and put the backup in place once more"
            )

    def _at_checkout(
        self, _connection: DBAPIConnection, entry: ConnectionPoolEntry, _proxy: PoolProxiedConnection
    ) -> None:
        identity = _identity(self.path)
        if entry.info.get(_FILE) is None and identity is not None and self._seen is None:
            entry.info[_FILE] = identity  # the connection has made the file
        if identity != entry.info.get(_FILE):
            raise DisconnectionError("the database's file was replaced")  # the pool then opens another connection
        self._seen, self._log = identity, _identity(Path(f"{self.path}-wal"))


def _identity(path: Path) -> Identity | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
