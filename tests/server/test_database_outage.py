"""A server whose PostgreSQL is frozen or killed, and one whose database is restored from a backup under it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from adapters.storage import postgres as postgres_module
from adapters.storage.postgres import BoundedConnection
from tests.postgres import PostgresServer
from tests.server.opened import Opened, Opening
from tests.until import Until

on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


async def assert_chats_and_refuses_writes(opened: Opened) -> None:
    """Serve from memory; answer a write with an error that clients try again."""
    assert await opened.answer("sql") == "sql@1"
    assert await opened.answer("poet@1") == "poet@1"
    assert (await opened.client.get("/ready")).status_code == 200
    assert (await opened.client.get("/v1/adapters/sql")).json()["name"] == "sql"
    assert (await opened.chat("unknown")).status_code == 404
    refused = await opened.client.post("/v1/adapters/sql/promote", json={"version": 1})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "storage_unavailable")
    assert int(refused.headers["retry-after"]) >= 1
    assert "127.0.0.1" not in refused.text


async def assert_outlives(opening: Opening, until: Until, goes: Callable[[], None], comes: Callable[[], None]) -> None:
    """Serve while the database is away, then write again, and see the write on another server."""
    async with opening() as opened, opening() as other:
        await opened.publish("sql")
        await opened.publish("poet", 2)
        goes()
        try:
            await assert_chats_and_refuses_writes(opened)
        finally:
            comes()
        await until(lambda: can_write(opened))
        await until(lambda: "again" in other.state.registry.catalog)


@on_postgresql
async def test_serving_goes_on_while_postgresql_is_frozen(
    opening: Opening, postgres: PostgresServer, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BoundedConnection, "answer_s", 0.5)
    monkeypatch.setattr(postgres_module, "CONNECT_S", 2)  # libpq takes no less
    await assert_outlives(opening, until, postgres.freeze, postgres.thaw)


@on_postgresql
async def test_serving_goes_on_while_postgresql_is_killed(
    opening: Opening, postgres: PostgresServer, until: Until
) -> None:
    await assert_outlives(opening, until, postgres.kill, postgres.start)


async def can_write(opened: Opened) -> bool:
    response = await opened.client.post("/v1/adapters/again/versions", files=opened.make_adapter(3).multipart())
    return response.status_code == 201


async def test_after_a_restore_no_version_answers_with_the_weights_of_another(
    opening: Opening, data_dir: Path, until: Until
) -> None:
    async with opening() as opened:
        await opened.publish("sql")
        with closing(sqlite3.connect(data_dir / "registry.db")) as source, closing(sqlite3.connect("")) as backup:
            source.backup(backup)
            lost = await opened.publish("json", 2)
            assert await opened.answer("json") == "json@1"
            backup.backup(source)
        await until(lambda: "json" not in opened.state.registry.catalog)
        assert (await opened.chat("json")).status_code == 404

        found = await opened.publish("json", 3)  # the same name, number and row's id as what was lost
        assert found["id"] == lost["id"]
        assert found["digest"] != lost["digest"]
        assert await opened.answer("json") == "json@1"
        used = [resident for resident in opened.engine.residents.values() if resident.name == "json@1"]
        assert [resident.path.name for resident in used][-1] == found["digest"]
        assert len({resident.id for resident in used}) == len(used) == 2


async def test_a_name_that_another_server_has_published_is_known_at_once(opening: Opening) -> None:
    async with opening(follow_interval_s=3600) as one, opening(follow_interval_s=3600) as two:
        await one.publish("sql")
        assert await two.answer("sql") == "sql@1"
        shown = await two.client.get("/v1/adapters/sql/versions/1")
        assert shown.status_code == 200
