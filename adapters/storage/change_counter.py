"""Whether anybody committed to a SQLite file, told without a query: what follows a database may ask often."""

from __future__ import annotations

import sqlite3
from pathlib import Path


class ChangeCounter:
    """SQLite's own ``data_version`` of the file at ``path``: a look into memory that all its processes share.

    It takes microseconds, where a query through SQLAlchemy and the driver's thread takes milliseconds of a processor.
    Used by one thread; see https://www.sqlite.org/pragma.html#pragma_data_version.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None

    def read(self) -> int | None:
        """Return a number that is another one after each commit, whoever's; None if the file cannot tell now."""
        try:
            if self._connection is None:
                at = f"{self._path.absolute().as_uri()}?mode=rw"  # never makes the file
                self._connection = sqlite3.connect(at, uri=True, timeout=0, isolation_level=None)
            return int(self._connection.execute("PRAGMA data_version").fetchone()[0])
        except sqlite3.Error:  # the connection stays: another one would count anew, and might come to an old number
            return None

    def close(self) -> None:
        """Let go of the file, for good."""
        if self._connection is not None:
            self._connection.close()
