"""Versions: listed, shown, downloaded, loaded, pinned, deleted."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from adapters.names import FineTunedName
from tests.server.opened import Opened, Opening
from tests.until import Until

VERSIONS = "/v1/adapters/sql/versions"


async def test_a_version_is_shown_with_its_report(opened: Opened, client: httpx.AsyncClient) -> None:
    published = await opened.publish("sql")
    assert (await client.get(f"{VERSIONS}/1")).json() == published


async def test_a_version_is_shown_with_all_its_names(opened: Opened, client: httpx.AsyncClient) -> None:
    names = ["ft:base:patchbay:sql:abc", "ft:base:patchbay:sql:abc:ckpt-step-88"]
    for seed in (1, 2):
        await opened.publish("sql", seed)
    for name in names:
        await opened.state.registry.name_result("sql", 2, FineTunedName(name), alias="best", report={"loss": 1})
    first, second = (await client.get(VERSIONS)).json()["data"]
    assert (first["aliases"], first["fine_tuned_names"]) == (["stable"], [])
    assert (second["aliases"], second["fine_tuned_names"]) == (["best"], names)
    assert (await client.get(f"{VERSIONS}/2")).json()["report"]["loss"] == 1


async def test_versions_are_listed_in_pages_oldest_first(opened: Opened, client: httpx.AsyncClient) -> None:
    for seed in range(5):
        await opened.publish("sql", seed)
    first = (await client.get(VERSIONS, params={"limit": 2})).json()
    assert ([entry["version"] for entry in first["data"]], first["has_more"]) == ([1, 2], True)
    assert (first["object"], first["first_id"], first["last_id"]) == ("list", "sql@1", "sql@2")
    second = (await client.get(VERSIONS, params={"limit": 2, "after": first["last_id"]})).json()
    assert ([entry["version"] for entry in second["data"]], second["has_more"]) == ([3, 4], True)
    third = (await client.get(VERSIONS, params={"limit": 2, "after": "4"})).json()
    assert ([entry["version"] for entry in third["data"]], third["has_more"]) == ([5], False)
    none = (await client.get(VERSIONS, params={"after": "sql@5"})).json()
    assert (none["data"], none["first_id"], none["last_id"], none["has_more"]) == ([], None, None, False)


@pytest.mark.parametrize("limit", ["0", "201", "-1", "x", "1.5"])
async def test_a_page_has_1_to_200_entries(client: httpx.AsyncClient, limit: str) -> None:
    response = await client.get("/v1/adapters", params={"limit": limit})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "limit")


@pytest.mark.parametrize("number", ["x", "1x", "-1", "²", "٣", "1.0", "9" * 5000, "stable"])
async def test_a_version_that_is_no_number_is_refused(opened: Opened, client: httpx.AsyncClient, number: str) -> None:
    await opened.publish("sql")
    for response in (await client.get(f"{VERSIONS}/{number}"), await client.get(VERSIONS, params={"after": number})):
        assert (response.status_code, response.json()["error"]["param"]) == (400, "version")


async def test_an_unknown_version_says_which_there_are(opened: Opened, client: httpx.AsyncClient) -> None:
    await opened.publish("sql")
    for method, path in (
        ("GET", "9"),
        ("DELETE", "9"),
        ("POST", "9/load"),
        ("POST", "9/unload"),
        ("POST", "9/pin"),
        ("POST", "9/unpin"),
        ("GET", "9/content"),
        ("GET", "9/content/adapter_config.json"),
        ("GET", "0"),
    ):
        response = await client.request(method, f"{VERSIONS}/{path}")
        assert (response.status_code, response.json()["error"]["code"]) == (404, "version_not_found"), path


async def test_what_was_uploaded_is_downloaded(opened: Opened, client: httpx.AsyncClient) -> None:
    files = opened.make_adapter().multipart()
    published = await opened.publish("sql")
    listed = (await client.get(f"{VERSIONS}/1/content")).json()
    assert listed["digest"] == published["digest"]
    assert [entry["name"] for entry in listed["data"]] == [name for name, _ in files.values()]
    for entry, (_, content) in zip(listed["data"], files.values(), strict=True):
        assert entry["size_bytes"] == len(content)
        assert (await client.get(entry["path"])).content == content


async def test_a_range_of_a_file_is_downloaded(opened: Opened, client: httpx.AsyncClient) -> None:
    await opened.publish("sql")
    path = f"{VERSIONS}/1/content/adapter_model.safetensors"
    response = await client.get(path, headers={"range": "bytes=8-17"})
    assert (response.status_code, response.content) == (206, opened.make_adapter().weights[8:18])


@pytest.mark.parametrize("file", ["README.md", "..%2f..%2fregistry.db", "adapter_config.json%00"])
async def test_no_other_file_is_downloaded(opened: Opened, client: httpx.AsyncClient, file: str) -> None:
    await opened.publish("sql")
    response = await client.get(f"{VERSIONS}/1/content/{file}")
    assert response.status_code in {400, 404}
    assert response.json()["error"]["message"]


async def test_a_version_is_loaded_ahead_of_its_first_request_and_unloaded(
    opened: Opened, client: httpx.AsyncClient
) -> None:
    await opened.publish_cold("sql")
    assert (await client.get(f"{VERSIONS}/1")).json()["residency"] is None
    loaded = await client.post(f"{VERSIONS}/1/load")
    assert (loaded.status_code, loaded.json()["residency"]) == (200, "resident")
    await opened.answer("sql")
    assert opened.engine.loads.count("sql@1") == 2
    unloaded = await client.post(f"{VERSIONS}/1/unload")
    assert (unloaded.status_code, unloaded.json()["residency"]) == (200, None)
    assert opened.engine.residents == {}


async def test_an_unload_in_use_is_a_drain(opened: Opened, client: httpx.AsyncClient, until: Until) -> None:
    await opened.publish("sql")
    caller = opened.call("sql")
    await caller.start()
    assert (await client.post(f"{VERSIONS}/1/unload")).json()["residency"] == "draining"
    await caller.rest()
    await until(lambda: opened.residents == {})


async def test_a_pinned_version_stays_until_it_is_unpinned(opened: Opened, client: httpx.AsyncClient) -> None:
    await opened.publish("sql")
    pinned = (await client.post(f"{VERSIONS}/1/pin")).json()
    assert (pinned["is_pinned"], pinned["residency"]) == (True, "resident")
    refused = await client.post(f"{VERSIONS}/1/unload")
    assert (refused.status_code, "unpin it first" in refused.json()["error"]["message"]) == (400, True)
    assert (await client.post(f"{VERSIONS}/1/unpin")).json()["is_pinned"] is False
    assert (await client.post(f"{VERSIONS}/1/unload")).json()["residency"] is None


async def test_one_resident_stays_free_of_pins_that_are_set_at_once(opening: Opening) -> None:
    async with opening(max_residents=3) as opened:
        names = ("a", "b", "c", "d")
        for seed, name in enumerate(names):
            await opened.publish(name, seed)
        pinning = [opened.client.post(f"/v1/adapters/{name}/versions/1/pin") for name in names]
        statuses = sorted(response.status_code for response in await asyncio.gather(*pinning))
        assert statuses == [200, 200, 400, 400]
        assert len(opened.state.registry.catalog.pinned()) == 2


async def test_one_resident_stays_free_of_pins(opening: Opening) -> None:
    async with opening(max_residents=2) as opened:
        for name in ("one", "two"):
            await opened.publish(name)
        assert (await opened.client.post("/v1/adapters/one/versions/1/pin")).status_code == 200
        assert (await opened.client.post("/v1/adapters/one/versions/1/pin")).status_code == 200
        refused = await opened.client.post("/v1/adapters/two/versions/1/pin")
        assert (refused.status_code, "one@1" in refused.json()["error"]["message"]) == (400, True)


async def test_a_version_in_use_is_not_deleted(opened: Opened, client: httpx.AsyncClient) -> None:
    await opened.publish("sql")
    await opened.publish("sql", 2)
    await client.post(f"{VERSIONS}/2/pin")
    for number, holder in ((1, "alias 'stable'"), (2, "pinned")):
        response = await client.delete(f"{VERSIONS}/{number}")
        assert (response.status_code, response.json()["error"]["code"]) == (409, "version_in_use")
        assert holder in response.json()["error"]["message"]


async def test_a_deleted_version_is_gone_and_its_number_is_not_used_again(
    opened: Opened, client: httpx.AsyncClient
) -> None:
    for seed in (1, 2):
        await opened.publish("sql", seed)
    await opened.answer("sql@2")
    response = await client.delete(f"{VERSIONS}/2")
    assert response.json() == {"object": "adapter.version", "id": "sql@2", "deleted": True}
    assert (await client.get(f"{VERSIONS}/2")).status_code == 404
    assert (await opened.chat("sql@2")).status_code == 404
    assert list(opened.residents) == ["sql@1"]
    assert (await opened.publish("sql", 3))["version"] == 3


async def test_what_an_alias_points_to_is_resident_once_published(opened: Opened) -> None:
    assert (await opened.publish("sql", 1))["residency"] == "resident"
    assert (await opened.publish("sql", 2))["residency"] is None
    assert (await opened.publish("sql", 3, alias="canary"))["residency"] == "resident"
