"""Adapters: listed, shown, deleted."""

from __future__ import annotations

import httpx

from tests.server.opened import Opened


async def test_adapters_are_listed_in_pages_by_name(opened: Opened, client: httpx.AsyncClient) -> None:
    for name in ("c", "a", "b"):
        await opened.publish(name)
    first = (await client.get("/v1/adapters", params={"limit": 2})).json()
    assert ([entry["name"] for entry in first["data"]], first["has_more"]) == (["a", "b"], True)
    assert (first["first_id"], first["last_id"]) == ("a", "b")
    second = (await client.get("/v1/adapters", params={"limit": 2, "after": "b"})).json()
    assert ([entry["name"] for entry in second["data"]], second["has_more"]) == (["c"], False)


async def test_an_adapter_shows_its_aliases_and_its_newest_version(opened: Opened, client: httpx.AsyncClient) -> None:
    await opened.publish("sql")
    await opened.publish("sql", 2, alias="canary")
    shown = (await client.get("/v1/adapters/sql")).json()
    assert shown.pop("created_at") > 10**9
    assert shown == {
        "object": "adapter",
        "name": "sql",
        "latest_version": 2,
        "version_count": 2,
        "aliases": {"canary": 2, "stable": 1},
        "lora_name": None,
        "project": "default",
        "shared_with": [],
    }


async def test_an_unknown_adapter_is_not_found(client: httpx.AsyncClient) -> None:
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/versions"), ("GET", "/aliases"), ("POST", "/rollback")):
        response = await client.request(method, f"/v1/adapters/nobody{path}")
        assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found"), path


async def test_a_deleted_adapter_is_gone_and_numbering_goes_on_under_its_name(
    opened: Opened, client: httpx.AsyncClient
) -> None:
    for seed in (1, 2):
        await opened.publish("sql", seed)
    await client.post("/v1/adapters/sql/versions/2/pin")
    await opened.answer("sql")
    assert (await client.delete("/v1/adapters/sql")).json() == {"object": "adapter", "name": "sql", "deleted": True}
    assert opened.residents == {}
    assert (await opened.chat("sql")).status_code == 404
    again = await opened.publish("sql", 3)
    assert (again["version"], again["aliases"]) == (3, ["stable"])
    assert await opened.answer("sql") == "sql@3"
    assert (await opened.chat("sql@1")).status_code == 404
