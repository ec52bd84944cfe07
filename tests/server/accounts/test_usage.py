"""Usage is counted once for each request, and outlives the server."""

from __future__ import annotations

import csv
import io
from typing import Any

from adapters.errors import StorageUnavailable
from server.access.caller import ANONYMOUS, Caller
from server.access.scope import ALL_SCOPES, Scope
from tests.postgres import on_both_databases
from tests.server.opened import Opened, Opening


async def usage_of(opened: Opened, **query: Any) -> list[dict[str, Any]]:
    response = await opened.client.get("/v1/usage", params=query)
    assert response.status_code == 200, response.text
    rows: list[dict[str, Any]] = response.json()["data"]
    return rows


@on_both_databases
async def test_requests_and_tokens_are_counted_for_key_and_adapter(opened: Opened) -> None:
    key, secret = await opened.state.keys.create("app", [Scope.ADMIN])
    opened.client.headers["authorization"] = f"Bearer {secret}"
    await opened.publish("sql")
    for words in (3, 4):
        await opened.chat("sql", max_tokens=words)
    await opened.chat("base", max_tokens=2)
    rows = await usage_of(opened)
    counted = {row["adapter"]: (row["key_id"], row["requests"], row["completion_tokens"]) for row in rows}
    assert counted == {"sql": (key.id, 2, 7), "(base)": (key.id, 1, 2)}


async def test_a_key_without_admin_sees_its_own_usage_alone(opened: Opened) -> None:
    seen = []
    for name in ("one", "two"):
        key, secret = await opened.state.keys.create(name, [Scope.INFER])
        opened.client.headers["authorization"] = f"Bearer {secret}"
        await opened.chat("base")
        seen.append({row["key_id"] for row in await usage_of(opened)} == {key.id})
    assert seen == [True, True]


async def test_a_refused_request_is_not_counted(opened: Opened) -> None:
    await opened.chat("none")
    assert await usage_of(opened) == []


@on_both_databases
async def test_usage_adds_up_over_restarts(opening: Opening) -> None:
    for _ in range(2):
        async with opening() as opened:
            await opened.chat("base", max_tokens=5)
    async with opening() as opened:
        (row,) = await usage_of(opened)
    assert (row["requests"], row["completion_tokens"]) == (2, 10)


@on_both_databases
async def test_a_batch_whose_commit_was_unknown_is_counted_once(opened: Opened, monkeypatch) -> None:
    usage = opened.state.accounts.usage
    usage.counts(ANONYMOUS, None).requests += 3
    write = usage._write
    async with opened.state.registry.database.write() as connection:  # commits, although the ledger hears nothing
        usage._batch, usage._counted, usage._sequence = usage._counted, {}, usage._sequence + 1
        await write(connection)
    usage.counts(ANONYMOUS, None).requests += 4
    await usage.flush()
    await usage.flush()
    (row,) = await usage_of(opened)
    assert row["requests"] == 7


async def test_counts_stay_while_the_database_is_away(opened: Opened, monkeypatch) -> None:
    usage = opened.state.accounts.usage
    usage.counts(ANONYMOUS, None).requests += 3
    with monkeypatch.context() as patch:

        async def away(_connection: object) -> None:
            raise StorageUnavailable("the database does not answer")

        patch.setattr(usage, "_write", away)
        await usage.try_flush()
        usage.counts(ANONYMOUS, None).requests += 4
    await usage.flush()
    (row,) = await usage_of(opened)
    assert row["requests"] == 7


async def test_no_cell_of_usage_is_a_formula_to_a_spreadsheet(opened: Opened) -> None:
    counts = opened.state.accounts.usage.counts(Caller(None, "=cmd|' /C calc'!A0", ALL_SCOPES), "-1")
    counts.requests += 1
    response = await opened.client.get("/v1/usage", params={"format": "csv"})
    (row,) = csv.DictReader(io.StringIO(response.text))
    assert (row["project"], row["adapter"], row["requests"]) == ("'=cmd|' /C calc'!A0", "'-1", "1")


async def test_usage_is_sent_as_csv(opened: Opened) -> None:
    await opened.chat("base", max_tokens=5)
    for request in ({"params": {"format": "csv"}}, {"headers": {"accept": "text/csv"}}):
        response = await opened.client.get("/v1/usage", **request)
        assert response.headers["content-type"].startswith("text/csv")
        (row,) = csv.DictReader(io.StringIO(response.text))
        assert (row["adapter"], row["completion_tokens"]) == ("(base)", "5")


async def test_a_day_that_is_none_is_refused(opened: Opened) -> None:
    response = await opened.client.get("/v1/usage", params={"start": "yesterday"})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "start"
