from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from sqlalchemy import Column, Connection, Integer, MetaData, Table, event, func, insert, select, text
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import create_async_engine

from adapters.errors import DatabaseUnusable, StorageUnavailable
from adapters.storage.database import Database, UtcDateTime

moments = Table("moments", MetaData(), Column("id", Integer, primary_key=True), Column("at", UtcDateTime))


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with Database.open(database_url) as opened:
        async with opened.write() as connection:
            await connection.run_sync(moments.metadata.create_all)
        yield opened


async def test_a_migration_that_fails_leaves_no_half_made_tables(database: Database, tmp_path: Path):
    (tmp_path / "versions").mkdir()
    (tmp_path / "versions" / "broken.py").write_text(
        "from alembic import op\n"
        "import sqlalchemy as sa\n"
        "revision, down_revision = 'broken', None\n"
        "def upgrade():\n"
        "    op.create_table('half', sa.Column('id', sa.Integer, primary_key=True))\n"
        "    raise RuntimeError('half way')\n"
    )
    with pytest.raises(RuntimeError, match="half way"):
        await database.migrate(tmp_path / "versions", "alembic_version_broken")
    async with database.read() as connection:
        tables = set((await connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'table'"))).scalars())
    assert tables == {"moments"}


@pytest.mark.parametrize(
    ("pragma", "value"), [("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1), ("busy_timeout", 10_000)]
)
async def test_sqlite_is_set_up_for_durability(database: Database, pragma: str, value: object):
    async with database.read() as connection:
        assert (await connection.execute(text(f"PRAGMA {pragma}"))).scalar_one() == value


async def test_a_block_that_raises_writes_nothing(database: Database):
    async def write_twice() -> None:
        async with database.write() as connection:
            await connection.execute(insert(moments).values(id=1))
            await connection.execute(insert(moments).values(id=1))

    with pytest.raises(IntegrityError):
        await write_twice()
    async with database.read() as connection:
        assert (await connection.execute(select(func.count()).select_from(moments))).scalar_one() == 0


def lose(_connection: object, *_statement: object) -> None:
    raise OperationalError("the statement under way", None, ConnectionError("connection lost"))


async def test_trouble_before_the_commit_says_that_nothing_was_written(database: Database):
    async def write() -> None:
        async with database.write() as connection:
            await connection.execute(insert(moments).values(id=1))
            lose(connection)

    with pytest.raises(StorageUnavailable, match=r"connection lost.*; nothing was written, try again"):
        await write()
    async with database.read() as connection:
        assert (await connection.execute(select(func.count()).select_from(moments))).scalar_one() == 0


@pytest.mark.parametrize("is_committed", [True, False])
async def test_trouble_at_the_commit_claims_nothing(database: Database, database_url: str, is_committed: bool):
    def at_commit(connection: Connection) -> None:
        if is_committed:
            connection.connection.commit()
        lose(connection)

    engine = create_async_engine(database_url.replace("sqlite:", "sqlite+aiosqlite:"))
    event.listen(engine.sync_engine, "commit", at_commit)

    async def write() -> None:
        async with Database(engine).write() as connection:
            await connection.execute(insert(moments).values(id=1))

    with pytest.raises(StorageUnavailable, match="may or may not be written: check before you try again"):
        await write()
    await engine.dispose()
    async with database.read() as connection:
        written = (await connection.execute(select(func.count()).select_from(moments))).scalar_one()
    assert written == is_committed


async def test_a_full_database_says_that_nothing_was_written(database: Database):
    async def fill() -> None:
        async with database.write() as connection:
            pages = (await connection.exec_driver_sql("PRAGMA page_count")).scalar_one()
            await connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
            await connection.execute(insert(moments), [{"id": number} for number in range(10_000)])

    with pytest.raises(StorageUnavailable, match=r"full.*nothing was written"):
        await fill()
    async with database.read() as connection:
        assert (await connection.execute(select(func.count()).select_from(moments))).scalar_one() == 0


async def test_a_reader_sees_one_moment_while_others_write(database: Database):
    count = select(func.count()).select_from(moments)
    async with database.read() as reader:
        before = (await reader.execute(count)).scalar_one()
        async with database.write() as writer:
            await writer.execute(insert(moments).values(id=1))
        assert (await reader.execute(count)).scalar_one() == before == 0


async def test_writers_take_turns(database: Database):
    async def raise_by_one() -> None:
        async with database.write() as connection:
            highest = (await connection.execute(select(func.coalesce(func.max(moments.c.id), 0)))).scalar_one()
            await connection.execute(insert(moments).values(id=highest + 1))

    await asyncio.gather(*(raise_by_one() for _ in range(20)))
    async with database.read() as connection:
        assert (await connection.execute(select(func.max(moments.c.id)))).scalar_one() == 20


@pytest.mark.parametrize("zone", [UTC, timezone(timedelta(hours=5, minutes=30))])
async def test_moments_come_back_aware_and_in_utc(database: Database, zone: timezone):
    at = datetime(2026, 11, 22, 23, 59, 59, 123456, tzinfo=zone)
    async with database.write() as connection:
        await connection.execute(insert(moments).values(id=1, at=at))
    async with database.read() as connection:
        stored = (await connection.execute(select(moments.c.at))).scalar_one()
    assert stored == at
    assert stored.tzinfo is UTC


async def test_the_change_counter_changes_with_each_commit_and_only_then(database: Database, database_url: str):
    async def keep(writer: Database) -> None:
        async with writer.write() as connection:
            await connection.execute(insert(moments).values(at=datetime.now(UTC)))

    async with Database.open(database_url) as other:
        counts = [database.change_count()]
        for writer in (database, other, other):
            await keep(writer)
            counts.append(database.change_count())
            async with other.read() as connection:
                await connection.execute(select(moments))
            with suppress(ZeroDivisionError):
                async with other.write() as connection:
                    await connection.execute(insert(moments).values(at=datetime.now(UTC)))
                    raise ZeroDivisionError
            assert database.change_count() == counts[-1]
        assert None not in counts
        assert len(set(counts)) == len(counts)


async def test_a_database_that_cannot_tell_has_no_change_counter(tmp_path: Path):
    async with Database.open("sqlite:///:memory:") as unwatched:
        assert unwatched.change_count() is None
    (tmp_path / "text.db").write_text("no database, and long enough to be looked at" * 100)
    async with Database.open(f"sqlite:///{tmp_path / 'text.db'}") as broken:
        assert broken.change_count() is None


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("registry.db", "cannot be used: Could not parse SQLAlchemy URL"),
        ("postgresql://host:port/db", "cannot be used: invalid literal for int"),
        ("postgres://host/db", "begins with postgres://: use sqlite:/// with a path, or postgresql://"),
        ("postgresql+psycopg2://host/db", r"begins with postgresql\+psycopg2://"),
        ("mysql+asyncmy://host/db", r"begins with mysql\+asyncmy://"),
        ("sqlite:////no/such/place/registry.db", "names no directory: /no/such/place"),
    ],
)
async def test_a_url_that_cannot_be_used_is_refused_with_the_reason(url: str, reason: str):
    with pytest.raises(DatabaseUnusable, match=reason):
        async with Database.open(url):
            pass


async def test_without_the_driver_of_postgresql_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "adapters.storage.postgres", raising=False)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(DatabaseUnusable, match=r"pip install 'patchbay\[postgres\]'"):
        async with Database.open("postgresql://host/db"):
            pass
