"""A counter of the commits to a SQLite file that is read without a query, so it can be polled often."""

from __future__ import annotations

import sqlite3
from pathlib import Path


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
        """Close the file."""
        if self._connection is not None:
            self._connection.close()
