from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from structlog.testing import capture_logs

from adapters.errors import (
    AdapterNotFound,
    AliasMoved,
    AliasNotFound,
    InvalidName,
    StorageUnavailable,
    VersionInUse,
    VersionNotFound,
)
from adapters.names import Reference
from adapters.registry.registry import Registry
from adapters.storage.database import Database
from adapters.versions import Version
from tests.postgres import on_both_databases
from tests.until import until

pytestmark = on_both_databases

AddVersion = Callable[..., Awaitable[Version]]


async def test_versions_are_numbered_from_one_and_the_first_becomes_stable(registry: Registry, add: AddVersion):
    first, second = await add("sql"), await add("sql")

    assert (first.number, second.number) == (1, 2)
    assert registry.catalog.resolve(Reference("sql")) == first
    assert registry.catalog.resolve(Reference("sql", version=2)) == second


async def test_an_alias_given_with_a_version_moves_with_it(registry: Registry, add: AddVersion):
    await add("sql")
    second = await add("sql", alias="canary")
    third = await add("sql", alias="stable")

    assert registry.catalog.resolve(Reference("sql", alias="canary")) == second
    assert registry.catalog.resolve(Reference("sql")) == third


async def test_everything_is_there_again_after_reopening(database_url: str, add: AddVersion, registry: Registry):
    await add("sql", alias="canary")
    await add("poet")
    await registry.set_pinned("sql", 1, True)

    async with Registry.open(database_url) as reopened:
        assert list(reopened.catalog) == list(registry.catalog)
        assert [version.name for version in reopened.catalog.pinned()] == ["sql@1"]


async def test_a_quarantine_is_of_the_weights_that_earned_it(registry: Registry, add: AddVersion):
    harmful = await add("sql")
    assert (await registry.set_quarantine(harmful, "nan")).quarantine == "nan"
    assert registry.catalog.quarantine_reason(harmful) == "nan"
    other_weights = replace(harmful, digest="f" * 64)
    with pytest.raises(VersionNotFound, match="other weights"):
        await registry.set_quarantine(other_weights, None)
    assert registry.catalog.quarantine_reason(harmful) == "nan"


async def test_a_report_is_kept_with_its_version_until_deletion(registry: Registry, add: AddVersion):
    await add("sql")
    second = await add("sql")
    assert await registry.report(second) == {"rank": 8}

    await registry.delete_version("sql", 2)
    with pytest.raises(VersionNotFound, match="sql@2"):
        await registry.report(second)


@pytest.mark.parametrize(("name", "alias"), [("../etc", None), ("", None), ("sql", "7"), ("sql", "a b")])
async def test_a_version_under_an_invalid_name_leaves_nothing(
    registry: Registry, add: AddVersion, name: str, alias: str | None
):
    with pytest.raises(InvalidName):
        await add(name, alias=alias)
    assert len(registry.catalog) == 0


async def test_numbers_and_ids_are_never_given_twice(registry: Registry, add: AddVersion):
    first = await add("sql")
    second = await add("sql")
    await registry.delete_version("sql", 2)
    third = await add("sql")
    await registry.delete_adapter("sql")
    fourth = await add("sql")

    assert [v.number for v in (first, second, third, fourth)] == [1, 2, 3, 4]
    assert len({v.id for v in (first, second, third, fourth)}) == 4
    assert registry.catalog.resolve(Reference("sql")) == fourth


async def test_compare_and_set_moves_only_what_is_as_expected(registry: Registry, add: AddVersion):
    for _ in range(3):
        await add("sql")
    moved = await registry.move_alias("sql", "stable", 2, expected=1)
    assert (moved.version, moved.generation) == (2, 2)

    with pytest.raises(AliasMoved, match="version 2 ") as lost:
        await registry.move_alias("sql", "stable", 3, expected=1)
    assert lost.value.details == {"current": {"version": 2, "generation": 2}}
    with pytest.raises(AliasMoved):
        await registry.move_alias("sql", "stable", 3, generation=1)
    assert (await registry.move_alias("sql", "stable", 3, generation=2)).generation == 3


async def test_expecting_no_alias_creates_it_once(registry: Registry, add: AddVersion):
    await add("sql")
    assert (await registry.move_alias("sql", "canary", 1, expected=None)).generation == 1
    with pytest.raises(AliasMoved):
        await registry.move_alias("sql", "canary", 1, expected=None)


@pytest.mark.parametrize("expectation", [{"expected": 1}, {"generation": 1}])
async def test_expecting_an_alias_that_does_not_exist_fails(
    registry: Registry, add: AddVersion, expectation: dict[str, int]
):
    await add("sql")
    with pytest.raises(AliasMoved, match="does not exist") as lost:
        await registry.move_alias("sql", "canary", 1, **expectation)
    assert lost.value.current is None


async def test_moving_an_alias_to_where_it_is_changes_nothing(registry: Registry, add: AddVersion):
    await add("sql")
    assert (await registry.move_alias("sql", "stable", 1)).generation == 1
    assert len(await registry.moves("sql")) == 1


async def test_an_alias_created_again_goes_on_from_its_old_generation(registry: Registry, add: AddVersion):
    await add("sql")
    before = await registry.move_alias("sql", "canary", 1)
    await registry.delete_alias("sql", "canary")
    with pytest.raises(AliasMoved):
        await registry.move_alias("sql", "canary", 1, generation=before.generation)
    again = await registry.move_alias("sql", "canary", 1)

    assert again.generation > before.generation


async def test_rollback_goes_back_as_a_browser_does(registry: Registry, add: AddVersion):
    for _ in range(4):
        await add("sql")
    for version in (2, 3):
        await registry.move_alias("sql", "stable", version)

    assert (await registry.rollback("sql")).version == 2
    assert (await registry.rollback("sql")).version == 1
    with pytest.raises(VersionNotFound, match="cannot be rolled back"):
        await registry.rollback("sql")
    await registry.move_alias("sql", "stable", 4)
    assert (await registry.rollback("sql")).version == 1
    assert [(m.from_version, m.to_version, m.is_rollback) for m in await registry.moves("sql")] == [
        (None, 1, False),
        (1, 2, False),
        (2, 3, False),
        (3, 2, True),
        (2, 1, True),
        (1, 4, False),
        (4, 1, True),
    ]


async def test_rollback_passes_over_deleted_versions(registry: Registry, add: AddVersion):
    for _ in range(3):
        await add("sql")
    for version in (2, 3):
        await registry.move_alias("sql", "stable", version)
    await registry.delete_version("sql", 2)

    assert (await registry.rollback("sql")).version == 1


async def test_rollback_of_an_unknown_alias_says_which_exist(registry: Registry, add: AddVersion):
    await add("sql")
    with pytest.raises(AliasNotFound, match="'stable'"):
        await registry.rollback("sql", "canary")


async def test_a_version_held_by_an_alias_or_a_pin_is_not_deleted(registry: Registry, add: AddVersion):
    await add("sql")
    await add("sql")
    await registry.set_pinned("sql", 2, True)
    with pytest.raises(VersionInUse, match="alias 'stable'"):
        await registry.delete_version("sql", 1)
    with pytest.raises(VersionInUse, match="pinned"):
        await registry.delete_version("sql", 2)

    await registry.set_pinned("sql", 2, False)
    await registry.delete_version("sql", 2)
    assert list(registry.catalog.adapter("sql").versions) == [1]


async def test_a_deleted_adapter_is_gone_with_everything(registry: Registry, add: AddVersion):
    await add("sql", alias="canary", digest="a" * 64)
    await add("poet", digest="b" * 64)
    await registry.set_pinned("sql", 1, True)
    await registry.delete_adapter("sql")

    assert [adapter.name for adapter in registry.catalog] == ["poet"]
    assert registry.catalog.pinned() == []
    assert await registry.digests() == {"b" * 64}
    with pytest.raises(AdapterNotFound):
        await registry.delete_adapter("sql")


async def test_a_recreated_adapter_has_none_of_the_old_aliases(registry: Registry, add: AddVersion):
    await add("sql", alias="canary")
    await registry.delete_adapter("sql")
    await add("sql")

    assert list(registry.catalog.adapter("sql").aliases) == ["stable"]
    with pytest.raises(VersionNotFound):
        await registry.rollback("sql")


@pytest.mark.parametrize("write", ["move", "pin", "delete"])
async def test_writes_to_a_version_that_is_not_there_say_what_is(registry: Registry, add: AddVersion, write: str):
    for _ in range(3):
        await add("sql")
    attempt = {
        "move": lambda: registry.move_alias("sql", "stable", 9),
        "pin": lambda: registry.set_pinned("sql", 9, True),
        "delete": lambda: registry.delete_version("sql", 9),
    }[write]
    with pytest.raises(VersionNotFound, match="no version 9; its newest versions: 3, 2, 1"):
        await attempt()


async def test_another_registry_sees_writes_after_refresh(registry: Registry, database_url: str, add: AddVersion):
    async with Registry.open(database_url) as other:
        await add("sql")
        await add("sql", alias="stable")
        await add("poet")
        await registry.delete_adapter("poet")
        assert len(other.catalog) == 0

        await other.refresh()
        assert list(other.catalog) == list(registry.catalog)


async def test_a_follower_takes_in_what_others_write(registry: Registry, database_url: str, add: AddVersion):
    async with Registry.open(database_url) as other:
        following = asyncio.create_task(other.follow(0.001))
        await add("sql")
        await until(lambda: "sql" in other.catalog)
        following.cancel()
        with pytest.raises(asyncio.CancelledError):
            await following


async def test_a_follower_outlives_an_outage_of_the_database(registry: Registry, database_url: str, add: AddVersion):
    await add("sql")
    async with Registry.open(database_url) as other:
        async with registry.database.write() as connection:
            await connection.execute(text("ALTER TABLE clock RENAME TO stopped"))
        with capture_logs() as logs:
            following = asyncio.create_task(other.follow(0.001))
            await until(lambda: bool(logs))
        assert logs[0]["event"] == "registry.refresh_failed"
        assert other.catalog.resolve(Reference("sql")).number == 1

        async with registry.database.write() as connection:
            await connection.execute(text("ALTER TABLE stopped RENAME TO clock"))
        await add("poet")
        await until(lambda: "poet" in other.catalog)
        following.cancel()


async def test_cancelled_writes_are_done_or_not_done_and_hold_nobody_up(
    registry: Registry, database_url: str, add: AddVersion
):
    await add("cancelled")
    for later in range(40):
        adding = asyncio.create_task(add("cancelled"))
        await asyncio.wait({adding}, timeout=later * 0.0003)
        adding.cancel()
        await asyncio.gather(adding, return_exceptions=True)
        await add("sql")

    for name in ("sql", "cancelled"):
        numbers = list(registry.catalog.adapter(name).versions)
        assert numbers == list(range(1, len(numbers) + 1))
    assert len(registry.catalog.adapter("sql").versions) == 40
    async with Registry.open(database_url) as reopened:
        assert list(reopened.catalog) == list(registry.catalog)


class WriteOnly(Database):
    """A database that stops answering when a write has been committed."""

    def read(self) -> AbstractAsyncContextManager[AsyncConnection]:
        raise StorageUnavailable("the database does not answer")


async def test_a_write_is_in_the_catalog_also_when_the_database_is_gone_after_it(
    registry: Registry, database_url: str, add: AddVersion
):
    await add("poet")
    async with WriteOnly.open(database_url) as database:
        writer = Registry(database)
        added = await add("sql", to=writer)
        assert writer.catalog.resolve(Reference("sql")) == added
        assert "poet" in writer.catalog

        await writer.delete_adapter("sql")
        assert [adapter.name for adapter in writer.catalog] == ["poet"]


async def test_a_refresh_that_a_write_overtakes_does_not_undo_it(
    registry: Registry, database_url: str, add: AddVersion
):
    class Slow(Database):
        """Hands over what it read once ``is_released`` is set."""

        is_reading, is_released = asyncio.Event(), asyncio.Event()

        @asynccontextmanager
        async def read(self) -> AsyncIterator[AsyncConnection]:
            async with super().read() as connection:
                yield connection
                self.is_reading.set()
                await self.is_released.wait()

    await add("sql")
    async with Slow.open(database_url) as database:
        reader = Registry(database)
        refreshing = asyncio.create_task(reader.refresh())
        await database.is_reading.wait()
        second = await add("sql", alias="stable", to=reader)
        database.is_released.set()
        await refreshing

        assert reader.catalog.resolve(Reference("sql")) == second


async def test_concurrent_writers_in_one_process_all_succeed(registry: Registry, add: AddVersion):
    added = await asyncio.gather(*(add("sql") for _ in range(20)))
    assert sorted(version.number for version in added) == list(range(1, 21))
