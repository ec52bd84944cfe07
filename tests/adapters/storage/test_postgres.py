"""A real PostgreSQL that is frozen, killed, locked and full: each wait ends, and everything goes on afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from sqlalchemy import text

from adapters.errors import StorageUnavailable
from adapters.storage import database as database_module
from adapters.storage import postgres as postgres_module
from adapters.storage.database import Database
from adapters.storage.postgres import BoundedConnection
from tests.postgres import PostgresServer

pytestmark = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with Database.open(database_url) as opened:
        async with opened.write() as connection:
            await connection.execute(text("CREATE TABLE moments (id integer)"))
        yield opened


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits for an answer for half a second."""
    monkeypatch.setattr(BoundedConnection, "answer_s", 0.5)


@pytest.fixture
def frozen(postgres: PostgresServer) -> Iterator[PostgresServer]:
    postgres.freeze()
    yield postgres
    postgres.thaw()


async def add(database: Database) -> None:
    async with database.write() as connection:
        await connection.execute(text("INSERT INTO moments VALUES (1)"))


async def count(database: Database) -> int:
    async with database.read() as connection:
        return int((await connection.execute(text("SELECT count(*) FROM moments"))).scalar_one())


async def test_a_statement_that_is_not_answered_ends(database: Database, postgres: PostgresServer, impatient: None):
    async with database.write():  # a connection that will be pooled
        pass

    async def write() -> None:
        async with database.write() as connection:
            postgres.freeze()
            await connection.execute(text("INSERT INTO moments VALUES (1)"))

    try:
        with pytest.raises(StorageUnavailable, match=r"no answer within 0.5 s\); nothing was written, try again"):
            await write()
    finally:
        postgres.thaw()
    await add(database)
    assert await count(database) == 1


async def test_a_commit_that_is_not_answered_claims_nothing(
    database: Database, postgres: PostgresServer, impatient: None
):
    async def write() -> None:
        async with database.write() as connection:
            await connection.execute(text("INSERT INTO moments VALUES (1)"))
            postgres.freeze()

    try:
        with pytest.raises(StorageUnavailable, match=r"may or may not be written: check before you try again"):
            await write()
    finally:
        postgres.thaw()
    await add(database)


async def test_a_new_connection_that_is_not_answered_ends(
    database_url: str, frozen: PostgresServer, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(postgres_module, "CONNECT_S", 2)  # libpq takes no less
    async with Database.open(database_url) as unanswered:
        with pytest.raises(StorageUnavailable, match=r"no connection .* nothing was written"):
            await count(unanswered)


async def test_pooled_connections_to_a_server_that_died_are_replaced(database: Database, postgres: PostgresServer):
    async with database.read(), database.read():  # two connections
        await add(database)
    postgres.kill()
    with pytest.raises(StorageUnavailable, match="nothing was written, try again"):
        await add(database)
    postgres.start()
    assert await count(database) == 1
    await add(database)
    assert await count(database) == 2


async def test_a_lock_is_waited_for_no_longer_than_allowed(database_url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(postgres_module, "LOCK_S", 1)
    async with Database.open(database_url) as database, Database.open(database_url) as other:
        async with other.write() as connection:
            await connection.execute(text("CREATE TABLE moments (id integer)"))
        async with other.write() as connection:
            await connection.execute(text("LOCK TABLE moments"))
            with pytest.raises(StorageUnavailable, match=r"lock timeout\); nothing was written, try again"):
                await add(database)


async def test_a_client_that_vanished_holds_no_lock_for_ever(database_url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(postgres_module, "IDLE_S", 1)
    async with Database.open(database_url) as database, Database.open(database_url) as vanished:
        async with database.write() as connection:
            await connection.execute(text("CREATE TABLE moments (id integer)"))

        async def vanish() -> None:
            async with vanished.write() as connection:
                await connection.execute(text("LOCK TABLE moments"))
                await add(database)  # waits until the server has ended this transaction
                await connection.execute(text("SELECT 1"))

        with pytest.raises(StorageUnavailable, match="idle-in-transaction timeout"):
            await vanish()
        assert await count(database) == 1


async def test_a_transaction_that_gets_no_connection_ends(database_url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(database_module, "POOL_TIMEOUT_S", 0.2)
    is_over = asyncio.Event()

    async def hold(database: Database) -> None:
        async with database.read() as connection:
            await connection.execute(text("SELECT 1"))
            await is_over.wait()

    async with Database.open(database_url) as database:
        holding = [asyncio.create_task(hold(database)) for _ in range(16)]  # one more than the pool has
        await asyncio.wait(holding, return_when=asyncio.FIRST_COMPLETED)
        is_over.set()
        (refused,) = filter(None, await asyncio.gather(*holding, return_exceptions=True))
    with pytest.raises(StorageUnavailable, match="all connections to the database are in use"):
        raise refused
