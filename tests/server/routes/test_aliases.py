"""Aliases: moved by compare-and-set, rolled back, promoted, deleted."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from tests.server.opened import Opened

STABLE = "/v1/adapters/sql/aliases/stable"


@pytest.fixture(autouse=True)
async def three_versions(opened: Opened) -> None:
    for seed in (1, 2, 3):
        await opened.publish("sql", seed)


async def test_an_alias_is_moved(client: httpx.AsyncClient) -> None:
    moved = (await client.put(STABLE, json={"version": 2})).json()
    assert moved.pop("updated_at") > 10**9
    where = {"adapter": "sql", "alias": "stable", "version": 2}
    assert moved == {"object": "adapter.alias", **where, "generation": 2, "require": None}


async def test_a_move_makes_its_target_resident_first(opened: Opened, client: httpx.AsyncClient) -> None:
    await client.put(STABLE, json={"version": 2})
    assert opened.residents["sql@2"] == ("resident", 0)


async def test_a_move_to_what_the_engine_refuses_does_not_happen(opened: Opened, client: httpx.AsyncClient) -> None:
    opened.builder.knobs.is_refusing_loads = True
    assert (await client.put(STABLE, json={"version": 2})).status_code == 400
    assert (await client.get(STABLE)).json()["version"] == 1


async def test_a_moved_alias_answers_412_with_where_it_is_now(client: httpx.AsyncClient) -> None:
    await client.put(STABLE, json={"version": 2, "expected": 1})
    lost = await client.put(STABLE, json={"version": 3, "expected": 1})
    assert lost.status_code == 412
    error = lost.json()["error"]
    assert (error["code"], error["param"], error["type"]) == ("alias_moved", "expected", "conflict_error")
    assert error["current"] == {"version": 2, "generation": 2}


async def test_a_generation_tells_a_move_there_and_back(client: httpx.AsyncClient) -> None:
    for version in (2, 1):
        await client.put(STABLE, json={"version": version})
    assert (await client.put(STABLE, json={"version": 3, "generation": 1})).status_code == 412
    assert (await client.put(STABLE, json={"version": 3, "generation": 3})).status_code == 200


async def test_expecting_null_means_that_it_must_not_exist(client: httpx.AsyncClient) -> None:
    canary = "/v1/adapters/sql/aliases/canary"
    assert (await client.put(canary, json={"version": 2, "expected": None})).status_code == 200
    lost = await client.put(canary, json={"version": 3, "expected": None})
    assert (lost.status_code, lost.json()["error"]["current"]["version"]) == (412, 2)
    nowhere = await client.put("/v1/adapters/sql/aliases/beta", json={"version": 3, "expected": 1})
    assert (nowhere.status_code, nowhere.json()["error"]["current"]) == (412, {"version": None, "generation": None})


async def test_of_those_who_expect_the_same_one_wins(client: httpx.AsyncClient) -> None:
    moves = [client.put(STABLE, json={"version": 2 + number % 2, "expected": 1}) for number in range(8)]
    statuses = sorted([response.status_code for response in await asyncio.gather(*moves)])
    assert statuses == [200] + [412] * 7


async def test_a_rollback_goes_back_to_where_it_was(opened: Opened, client: httpx.AsyncClient) -> None:
    await client.post("/v1/adapters/sql/promote", json={"version": 3})
    assert await opened.answer("sql") == "sql@3"
    assert (await client.post("/v1/adapters/sql/rollback")).json()["version"] == 1
    assert await opened.answer("sql") == "sql@1"
    nowhere = await client.post("/v1/adapters/sql/rollback")
    assert (nowhere.status_code, nowhere.json()["error"]["code"]) == (404, "version_not_found")


async def test_a_rollback_of_another_alias_names_it(client: httpx.AsyncClient) -> None:
    canary = "/v1/adapters/sql/aliases/canary"
    for version in (2, 3):
        await client.put(canary, json={"version": version})
    rolled = await client.post("/v1/adapters/sql/rollback", json={"alias": "canary"})
    assert (rolled.json()["alias"], rolled.json()["version"]) == ("canary", 2)


async def test_aliases_are_listed_and_shown_with_their_moves(client: httpx.AsyncClient) -> None:
    await client.put(STABLE, json={"version": 2})
    listed = (await client.get("/v1/adapters/sql/aliases")).json()
    assert [(entry["alias"], entry["version"]) for entry in listed["data"]] == [("stable", 2)]
    assert listed["has_more"] is False
    moves = (await client.get(STABLE)).json()["moves"]
    assert [(move["from"], move["to"], move["generation"]) for move in moves] == [(None, 1, 1), (1, 2, 2)]


async def test_a_deleted_alias_resolves_no_more(opened: Opened, client: httpx.AsyncClient) -> None:
    deleted = (await client.delete(STABLE)).json()
    assert deleted == {"object": "adapter.alias", "adapter": "sql", "alias": "stable", "deleted": True}
    assert (await opened.chat("sql")).json()["error"]["code"] == "alias_not_found"
    assert await opened.answer("sql@1") == "sql@1"
    assert (await client.get(STABLE)).status_code == 404
    assert (await client.delete(STABLE)).status_code == 404


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"version": 2, "expcted": 1}, "expcted"),
        ({}, "version"),
        ({"version": 0}, "version"),
        ({"version": "two"}, "version"),
        ({"version": None}, "version"),
    ],
)
async def test_a_body_that_is_wrong_moves_nothing_and_names_the_field(
    client: httpx.AsyncClient, body: dict[str, Any], field: str
) -> None:
    response = await client.put(STABLE, json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, field)
    assert (await client.get(STABLE)).json()["version"] == 1


async def test_an_unknown_key_is_refused_in_every_body(client: httpx.AsyncClient) -> None:
    for path, body in (("promote", {"version": 1, "x": 1}), ("rollback", {"x": 1})):
        response = await client.post(f"/v1/adapters/sql/{path}", json=body)
        assert (response.status_code, response.json()["error"]["param"]) == (400, "x")


@pytest.mark.parametrize("alias", ["7", "-x", "a b"])
async def test_an_alias_that_is_no_name_is_refused(client: httpx.AsyncClient, alias: str) -> None:
    response = await client.put(f"/v1/adapters/sql/aliases/{alias}", json={"version": 2})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_name")


async def test_a_version_that_is_not_there_is_not_pointed_to(client: httpx.AsyncClient) -> None:
    for version in (9, 2**70):
        response = await client.put(STABLE, json={"version": version})
        assert (response.status_code, response.json()["error"]["code"]) == (404, "version_not_found")
