"""Each write has a row in the audit log, and a changed row is found."""

from __future__ import annotations

import asyncio

from sqlalchemy import delete, update
from structlog.testing import capture_logs

from adapters.errors import StorageUnavailable
from server.access.scope import Scope
from server.accounts.audit_log import FIRST_HASH, AuditRow
from server.accounts.schema import audit_rows
from tests.postgres import on_both_databases
from tests.server.opened import Opened, Opening


async def rows_of(opened: Opened) -> list[AuditRow]:
    return (await opened.state.accounts.audit_log.list(after=None, limit=100))[0]


async def test_a_write_has_a_row_with_actor_route_and_outcome(opened: Opened) -> None:
    key, secret = await opened.state.keys.create("ci", [Scope.ADMIN])
    opened.client.headers["authorization"] = f"Bearer {secret}"
    published = await opened.publish("sql")
    (row,) = await rows_of(opened)
    assert (row.key_id, row.action, row.status) == (key.id, "POST /v1/adapters/{name}/versions", 201)
    assert (row.parameters, row.result, row.address) == ({"name": "sql"}, published["id"], "127.0.0.1")
    assert row.request_id


async def test_reads_and_requests_without_a_route_have_no_row(opened: Opened) -> None:
    await opened.client.get("/v1/adapters")
    await opened.client.post("/v1/nothing")
    await opened.client.post("/ping")
    assert await rows_of(opened) == []


async def test_a_refused_write_has_a_row(opened: Opened) -> None:
    response = await opened.client.delete("/v1/adapters/%00none")
    (row,) = await rows_of(opened)
    assert (row.status, row.action) == (response.status_code, "DELETE /v1/adapters/{name}")


@on_both_databases
async def test_rows_of_parallel_writes_form_one_chain(opened: Opened) -> None:
    await asyncio.gather(*(opened.client.delete(f"/v1/adapters/a{number}") for number in range(20)))
    rows = (await rows_of(opened))[::-1]
    assert [row.number for row in rows] == list(range(1, 21))
    assert [row.previous_hash for row in rows] == [FIRST_HASH, *(row.hash for row in rows[:-1])]
    assert (await opened.state.accounts.audit_log.verify()).broken is None


@on_both_databases
async def test_two_servers_write_one_chain(opening: Opening) -> None:
    async with opening() as one, opening() as two:
        await asyncio.gather(*(each.client.delete(f"/v1/adapters/a{n}") for each in (one, two) for n in range(10)))
        verdict = await one.state.accounts.audit_log.verify()
    assert (verdict.rows, verdict.broken) == (20, None)


@on_both_databases
async def test_a_changed_row_is_found(opened: Opened) -> None:
    for number in range(5):
        await opened.client.delete(f"/v1/adapters/a{number}")
    async with opened.state.registry.database.write() as connection:
        await connection.execute(update(audit_rows).where(audit_rows.c.number == 3).values(key_id="other"))
    assert (await opened.state.accounts.audit_log.verify()).broken == 3


async def test_a_removed_row_is_found(opened: Opened) -> None:
    for number in range(5):
        await opened.client.delete(f"/v1/adapters/a{number}")
    async with opened.state.registry.database.write() as connection:
        await connection.execute(delete(audit_rows).where(audit_rows.c.number == 2))
    assert (await opened.state.accounts.audit_log.verify()).broken == 2


async def test_an_event_that_could_not_be_written_is_logged_and_written_later(opened: Opened, monkeypatch) -> None:
    log = opened.state.accounts.audit_log
    with monkeypatch.context() as patch, capture_logs() as lines:

        async def away(_events: object) -> None:
            raise StorageUnavailable("the database does not answer")

        patch.setattr(log, "_write", away)
        await opened.client.delete("/v1/adapters/first")
    assert [line["event"] for line in lines if line["log_level"] == "error"] == ["audit.write_failed"]
    await opened.client.delete("/v1/adapters/second")
    assert [row.parameters["name"] for row in await rows_of(opened)] == ["second", "first"]
