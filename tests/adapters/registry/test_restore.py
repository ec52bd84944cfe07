"""A backup is restored under open registries: the catalog is read anew, whatever the clock of the backup shows."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Table, insert, select
from sqlalchemy.engine import make_url
from structlog.testing import capture_logs

from adapters.names import Reference
from adapters.registry import rows as rows_module
from adapters.registry.registry import Registry
from adapters.registry.schema import metadata
from adapters.storage.database import Database
from adapters.versions import Version
from tests.postgres import on_both_databases

AddVersion = Callable[..., Awaitable[Version]]
Backup = dict[Table, list[dict[str, object]]]


@pytest.fixture
async def other(database_url: str, registry: Registry) -> AsyncIterator[Registry]:
    """The registry of another process."""
    async with Registry.open(database_url) as opened:
        yield opened


async def back_up(database: Database) -> Backup:
    async with database.read() as connection:
        return {
            table: [dict(row) for row in (await connection.execute(select(table))).mappings()]
            for table in metadata.sorted_tables
        }


async def restore(database: Database, backup: Backup) -> None:
    async with database.write() as connection:
        for table in reversed(metadata.sorted_tables):
            await connection.execute(table.delete())
        for table, rows in backup.items():
            if rows:
                await connection.execute(insert(table), rows)


def names(registry: Registry) -> list[str]:
    return [adapter.name for adapter in registry.catalog]


@on_both_databases
async def test_the_catalog_is_that_of_the_backup(registry: Registry, add: AddVersion):
    await add("sql")
    backup = await back_up(registry.database)
    await add("victim")
    await add("sql", alias="stable")
    await registry.set_pinned("victim", 1, True)
    await restore(registry.database, backup)

    with capture_logs() as logs:
        await registry.refresh()
    assert names(registry) == ["sql"]
    assert registry.catalog.resolve(Reference("sql")).number == 1
    assert registry.catalog.pinned() == []
    assert [entry["log_level"] for entry in logs if "registry.restored" in entry["event"]] == ["warning"]


@on_both_databases
async def test_a_backup_whose_clock_has_caught_up_is_noticed(registry: Registry, other: Registry, add: AddVersion):
    await add("sql")
    backup = await back_up(registry.database)
    for name in ("victim", "busy"):
        await add(name)
    await other.refresh()
    await restore(registry.database, backup)
    for name in ("json", "poet", "math"):  # more writes than were lost
        await add(name, digest="1" * 64)

    assert names(registry) == ["json", "math", "poet", "sql"]
    await other.refresh()
    assert list(other.catalog) == list(registry.catalog)


@on_both_databases
async def test_a_write_just_after_the_restore_is_in_the_catalog(registry: Registry, add: AddVersion):
    backup = await back_up(registry.database)
    await add("victim")
    await restore(registry.database, backup)
    added = await add("json", digest="1" * 64)
    assert names(registry) == ["json"]
    assert registry.catalog.resolve(Reference("json")) == added


async def test_a_process_that_lagged_behind_reads_everything(
    registry: Registry, other: Registry, add: AddVersion, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(rows_module, "KEPT_REVISIONS", 3)
    for number in range(5):
        await add(f"sql-{number}")
    await registry.delete_adapter("sql-0")
    await other.refresh()
    assert list(other.catalog) == list(registry.catalog)
    assert len(other.catalog) == 4


async def test_a_writer_of_an_older_release_is_followed_without_a_new_reading(registry: Registry, add: AddVersion):
    clock = metadata.tables["clock"]
    await add("sql")
    with capture_logs() as logs:
        async with registry.database.write() as connection:  # as an older release does it: without a token
            await connection.execute(clock.update().values(revision=clock.c.revision + 1))
        await registry.refresh()
        await add("json")
    assert names(registry) == ["json", "sql"]
    assert [entry for entry in logs if "registry.restored" in entry["event"]] == []


@pytest.mark.parametrize("way", ["rename", "backup"])
async def test_a_file_restored_from_a_backup_is_served(
    registry: Registry, database_url: str, add: AddVersion, way: str
):
    path, saved = Path(make_url(database_url).database or ""), Path(f"{make_url(database_url).database}.saved")
    await add("sql")
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(saved)) as target:
        source.backup(target)
    await add("victim")
    await registry.refresh()

    if way == "rename":
        for rest in ("-wal", "-shm"):
            Path(f"{path}{rest}").unlink(missing_ok=True)
        saved.rename(path)
    else:
        with closing(sqlite3.connect(saved)) as source, closing(sqlite3.connect(path)) as target:
            source.backup(target)
    await registry.refresh()
    assert names(registry) == ["sql"]
    added = await add("json", digest="1" * 64)
    async with Registry.open(database_url) as reopened:
        assert names(reopened) == ["json", "sql"]
        assert reopened.catalog.resolve(Reference("json")) == added
