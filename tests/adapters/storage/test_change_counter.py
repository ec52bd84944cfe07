"""The change counter never returns a number again after a commit. Its other tests are in test_database.py."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from adapters.storage.database import ChangeCounter


def test_a_file_that_could_not_tell_for_a_moment_does_not_count_anew(tmp_path: Path):
    counter = ChangeCounter(tmp_path / "made.db")
    with closing(sqlite3.connect(tmp_path / "made.db", isolation_level=None)) as writer, closing(counter):
        writer.execute("CREATE TABLE moments (at)")
        before = counter.read()
        writer.execute("BEGIN EXCLUSIVE")
        writer.execute("INSERT INTO moments VALUES (1)")
        assert counter.read() is None  # locked out
        writer.execute("COMMIT")
        assert counter.read() not in {None, before}
