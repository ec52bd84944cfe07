"""A name that the catalog lacks is looked for in the database, and not so often that made-up names load it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.errors import AdapterNotFound, StorageUnavailable, VersionNotFound
from adapters.registry.catalog_follower import CATCH_UP_S
from adapters.registry.registry import Registry
from adapters.storage.database import Database
from adapters.versions import Version

AddVersion = Callable[..., Awaitable[Version]]


class CountedReads(Database):
    """Counts its reads, which fail while ``is_away``."""

    reads = 0
    is_away = False

    def read(self) -> AbstractAsyncContextManager[AsyncConnection]:
        self.reads += 1
        if self.is_away:
            raise StorageUnavailable("the database does not answer")
        return super().read()


class Uncounted(CountedReads):
    """Has no change counter, as PostgreSQL has none: each refresh is a read."""

    def change_count(self) -> None:
        return None


@pytest.fixture
async def database(database_url: str, registry: Registry) -> AsyncIterator[CountedReads]:
    async with Uncounted.open(database_url) as opened:
        assert isinstance(opened, Uncounted)
        yield opened


@pytest.fixture
def replica(database: CountedReads) -> Registry:
    return Registry(database)


async def test_what_another_process_wrote_is_found(replica: Registry, add: AddVersion):
    first = await add("sql")
    assert await replica.look_up(lambda catalog: catalog.find("sql")) == first


async def test_a_version_of_a_known_adapter_is_found(replica: Registry, add: AddVersion):
    await add("sql")
    await replica.refresh()
    second = await add("sql")
    assert await replica.look_up(lambda catalog: catalog.version("sql", 2)) == second


async def test_unknown_names_read_the_database_once(replica: Registry, database: CountedReads):
    async def ask(number: int) -> None:
        with pytest.raises(AdapterNotFound):
            await replica.look_up(lambda catalog: catalog.find(f"made-up-{number}"))

    await asyncio.gather(*map(ask, range(50)))
    await ask(51)
    assert database.reads == 1


async def test_the_database_is_read_again_a_second_later(replica: Registry, database: CountedReads, add: AddVersion):
    with pytest.raises(AdapterNotFound):
        await replica.look_up(lambda catalog: catalog.find("sql"))
    await add("sql")
    replica._caught_up_at -= CATCH_UP_S
    assert (await replica.look_up(lambda catalog: catalog.find("sql"))).name == "sql@1"
    assert database.reads == 2


async def test_known_names_read_nothing(replica: Registry, database: CountedReads, add: AddVersion):
    await add("sql")
    await replica.refresh()
    reads = database.reads
    await replica.look_up(lambda catalog: catalog.find("sql"))
    assert database.reads == reads


async def test_while_the_database_is_away_an_unknown_name_is_not_found(
    replica: Registry, database: CountedReads, add: AddVersion
):
    await add("sql")
    await replica.refresh()
    database.is_away = True
    with pytest.raises(VersionNotFound, match="no version 2"):
        await replica.look_up(lambda catalog: catalog.version("sql", 2))


async def test_an_unchanged_registry_is_not_read_again(registry: Registry, database_url: str, add: AddVersion):
    async with CountedReads.open(database_url) as database:
        assert isinstance(database, CountedReads)
        reader = Registry(database)
        for _ in range(3):
            await reader.refresh()
        assert database.reads == 1
        await add("sql")
        for _ in range(3):
            await reader.refresh()
        assert database.reads == 2
        assert reader.catalog.adapter("sql") == registry.catalog.adapter("sql")
