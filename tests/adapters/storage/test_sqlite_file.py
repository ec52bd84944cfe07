"""The counter of commits, and what happens when an operator puts another file in the database's place."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from adapters.errors import StorageUnavailable
from adapters.storage.database import Database
from adapters.storage.sqlite_file import SqliteFile


def write_file(path: Path, value: str) -> Path:
    """Make a database whose one row is ``value``."""
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("CREATE TABLE moments (at)")
        writer.execute("INSERT INTO moments VALUES (?)", [value])
    return path


async def values(database: Database) -> list[str]:
    async with database.read() as connection:
        return list((await connection.execute(text("SELECT at FROM moments ORDER BY rowid"))).scalars())


async def add(database: Database, value: str) -> None:
    async with database.write() as connection:
        await connection.execute(text("INSERT INTO moments VALUES (:value)"), {"value": value})


def test_a_file_that_could_not_tell_for_a_moment_does_not_count_anew(tmp_path: Path):
    file = SqliteFile(tmp_path / "made.db")
    with closing(sqlite3.connect(tmp_path / "made.db", isolation_level=None)) as writer, closing(file):
        writer.execute("CREATE TABLE moments (at)")
        before = file.change_count()
        writer.execute("BEGIN EXCLUSIVE")
        writer.execute("INSERT INTO moments VALUES (1)")
        assert file.change_count() is None  # locked out
        writer.execute("COMMIT")
        assert file.change_count() not in {None, before}


def test_the_count_of_a_file_that_was_put_in_place_is_another_one(tmp_path: Path):
    file = SqliteFile(write_file(tmp_path / "registry.db", "old"))
    with closing(file):
        before = file.change_count()
        write_file(tmp_path / "backup.db", "backup").rename(tmp_path / "registry.db")
        assert file.change_count() not in {None, before}


async def test_a_file_that_was_put_in_place_is_read_and_written_at_once(tmp_path: Path):
    path = write_file(tmp_path / "registry.db", "old")
    async with Database.open(f"sqlite:///{path}") as database:
        async with database.read(), database.read():  # two connections, which stay open
            await add(database, "newer")
        for rest in ("-wal", "-shm"):
            Path(f"{path}{rest}").unlink()
        write_file(tmp_path / "backup.db", "backup").rename(path)
        assert await values(database) == ["backup"]
        await add(database, "after the restore")
    with closing(sqlite3.connect(path)) as reader:
        assert [row[0] for row in reader.execute("SELECT at FROM moments")] == ["backup", "after the restore"]


async def test_a_replaced_file_is_not_mixed_with_the_log_of_the_old_one(tmp_path: Path):
    path = write_file(tmp_path / "registry.db", "old")
    async with Database.open(f"sqlite:///{path}") as database:
        await add(database, "in the log")
        assert len(await values(database)) == 2
        backup = write_file(tmp_path / "backup.db", "backup").read_bytes()
        (tmp_path / "backup.db").rename(path)
        with pytest.raises(StorageUnavailable, match=r"was replaced.*remove .*registry.db-wal and .*registry.db-shm"):
            await values(database)
        for rest in ("-wal", "-shm"):
            Path(f"{path}{rest}").unlink()
        (tmp_path / "backup.db").write_bytes(backup)
        (tmp_path / "backup.db").rename(path)
        assert await values(database) == ["backup"]


async def test_a_file_that_is_gone_is_not_made_anew(tmp_path: Path):
    path = write_file(tmp_path / "registry.db", "old")
    async with Database.open(f"sqlite:///{path}") as database:
        await add(database, "newer")
        path.rename(tmp_path / "elsewhere.db")
        with pytest.raises(StorageUnavailable, match=r"registry.db is gone: put it back"):
            await add(database, "lost")
        assert not path.exists()
        assert database.change_count() is None
        (tmp_path / "elsewhere.db").rename(path)
        assert await values(database) == ["old", "newer"]
