"""A stamp is never one that was seen before something was committed. The database's own tests have the rest."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from adapters.storage.database import ChangeCounter


def test_a_file_that_could_not_tell_for_a_moment_does_not_count_anew(tmp_path: Path):
    stamp = ChangeCounter(tmp_path / "made.db")
    with closing(sqlite3.connect(tmp_path / "made.db", isolation_level=None)) as writer, closing(stamp):
        writer.execute("CREATE TABLE moments (at)")
        before = stamp.read()
        writer.execute("BEGIN EXCLUSIVE")
        writer.execute("INSERT INTO moments VALUES (1)")
        assert stamp.read() is None  # locked out
        writer.execute("COMMIT")
        assert stamp.read() not in {None, before}
