"""Merges over HTTP: a new version out of others, published as any upload is."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.server.opened import Opened

MERGE = "/v1/adapters/blend/merge"


@pytest.fixture(autouse=True)
async def two_adapters(opened: Opened) -> None:
    await opened.publish("sql", 1)
    await opened.publish("json", 2)


def terms(**weights: float) -> list[dict[str, Any]]:
    return [{"reference": name, "weight": weight} for name, weight in weights.items()]


async def test_a_merge_is_a_version_that_can_be_called_at_once(opened: Opened, client: httpx.AsyncClient) -> None:
    response = await client.post(MERGE, json={"versions": terms(sql=0.5, json=-0.25)})
    made = response.json()
    assert response.status_code == 201
    assert (made["id"], made["rank"], made["aliases"]) == ("blend@1", 16, ["stable"])
    assert made["source"] == "merge:linear(sql@1*0.5, json@1*-0.25)"
    assert await opened.answer("blend") == "blend@1"
    assert made == (await client.get("/v1/adapters/blend/versions/1")).json()


async def test_its_report_tells_what_it_was_made_of(opened: Opened, client: httpx.AsyncClient) -> None:
    digests = [opened.state.registry.catalog.version(name, 1).digest for name in ("sql", "json")]
    report = (await client.post(MERGE, json={"versions": terms(sql=1, json=2), "compress_to": 8})).json()["report"]
    assert (report["ranks"], report["target_modules"]) == ({"8": 2}, ["q_proj", "v_proj"])
    merged = report["merge"]
    assert merged["versions"] == [
        {"version": "sql@1", "digest": digests[0], "weight": 1.0},
        {"version": "json@1", "digest": digests[1], "weight": 2.0},
    ]
    assert (merged["method"], merged["rank_before"], merged["rank"]) == ("linear", 16, 8)
    assert 0.05 < merged["error"] <= merged["worst_error"] < 1


async def test_a_merge_can_be_the_next_version_of_what_it_is_made_of(opened: Opened, client: httpx.AsyncClient) -> None:
    body = {"versions": [*terms(sql=0.5), {"reference": "json@stable", "weight": 0.5}], "alias": "canary"}
    made = (await client.post("/v1/adapters/sql/merge", json=body)).json()
    assert (made["id"], made["aliases"]) == ("sql@2", ["canary"])
    assert await opened.answer("sql") == "sql@1"


async def test_what_peft_merges_takes_the_same_way(client: httpx.AsyncClient) -> None:
    made = (await client.post(MERGE, json={"versions": terms(sql=0.5, json=0.5), "method": "dare_ties"})).json()
    assert (made["rank"], made["source"]) == (8, "merge:dare_ties(sql@1*0.5, json@1*0.5, density=0.5, seed=0)")


async def test_a_rank_above_the_servers_is_refused_with_what_a_cut_would_lose(client: httpx.AsyncClient) -> None:
    refused = await client.post(MERGE, json={"versions": [*terms(sql=1, json=1), *terms(sql=-1)]})
    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["param"]) == (400, "adapter_refused", "versions")
    (fault,) = error["faults"]
    assert fault["found"] == "rank 24, the sum of 8 + 8 + 8"
    assert "--max-lora-rank 32" in fault["needed"]
    assert "compress_to 16" in fault["needed"]
    assert (await client.get("/v1/adapters/blend")).status_code == 404


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"versions": []}, "versions"),
        ({"versions": [{"reference": "sql", "weight": 0}, {"reference": "json", "weight": 0.0}]}, "versions"),
        ({"versions": [{"reference": "sql", "weight": 1e9}]}, "versions.0.weight"),
        ({"versions": [{"reference": "sql"}]}, "versions.0.weight"),
        ({"method": "slerp"}, "method"),
        ({"density": 0.5}, "density"),
        ({"method": "ties", "density": 0}, "density"),
        ({"method": "ties", "seed": 1}, "seed"),
        ({"seed": 1}, "seed"),
        ({"compress_to": 0}, "compress_to"),
        ({"alias": "7"}, "alias"),
        ({"scale": 1}, "scale"),
    ],
)
async def test_a_recipe_that_makes_no_sense_is_refused(
    client: httpx.AsyncClient, changes: dict[str, Any], param: str
) -> None:
    refused = await client.post(MERGE, json={"versions": terms(sql=1), **changes})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    ("path", "reference", "status", "code"),
    [
        (MERGE, "poet", 404, "model_not_found"),
        (MERGE, "sql@9", 404, "version_not_found"),
        (MERGE, "a/b", 400, "invalid_name"),
        ("/v1/adapters/-/merge", "sql", 400, "invalid_name"),
        ("/v1/adapters/base/merge", "sql", 409, "name_taken"),
    ],
)
async def test_names_are_checked_as_everywhere(
    client: httpx.AsyncClient, path: str, reference: str, status: int, code: str
) -> None:
    refused = await client.post(path, json={"versions": [{"reference": reference, "weight": 1}]})
    assert (refused.status_code, refused.json()["error"]["code"]) == (status, code)


async def test_a_version_for_another_base_is_not_merged(opened: Opened, client: httpx.AsyncClient) -> None:
    await opened.state.registry.add_version(
        "old", digest="0" * 64, base_fingerprint="other", rank=8, size_bytes=1, source="upload", report={}
    )
    refused = await client.post(MERGE, json={"versions": terms(sql=1, old=1)})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "wrong_base")


async def test_nothing_is_left_behind(opened: Opened, client: httpx.AsyncClient) -> None:
    for weight in (1, 0):
        await client.post(MERGE, json={"versions": terms(sql=weight)})
    staging = opened.state.settings.data_dir / "staging"
    assert list(staging.iterdir()) == []
