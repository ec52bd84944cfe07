"""Two versions compared over HTTP."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from adapters.publisher import AT_ONCE
from server.probe.probe import DEMAND
from tests.server.opened import Opened
from tests.until import Until

DIFF = "/v1/adapters/diff"


@pytest.fixture(autouse=True)
async def two_versions(opened: Opened) -> None:
    await opened.publish("sql", 1)
    await opened.publish("sql", 2, alias="canary")


async def test_two_versions_are_compared_module_by_module(client: httpx.AsyncClient) -> None:
    response = await client.post(DIFF, json={"a": "sql", "b": "sql@canary"})
    found = response.json()
    assert response.status_code == 200
    assert (found["object"], found["a"], found["b"]) == ("adapter.diff", "sql@1", "sql@2")
    assert {each["module"].rpartition(".")[2] for each in found["modules"]} == {"q_proj", "v_proj"}
    assert [each["layer"] for each in found["layers"]] == ["model.layers.0"]
    assert found["layers"][0] == {"layer": "model.layers.0", **found["total"]}
    assert found["total"]["relative_distance"] > 1
    assert abs(found["total"]["cosine"]) < 0.2


async def test_a_version_and_itself_are_the_same(client: httpx.AsyncClient) -> None:
    total = (await client.post(DIFF, json={"a": "sql@1", "b": "sql"})).json()["total"]
    assert (total["distance"], total["relative_distance"]) == (0, 0)
    assert [total["cosine"], total["output_overlap"], total["input_overlap"]] == pytest.approx([1, 1, 1])


async def test_what_the_engine_answers_is_compared_too(opened: Opened, client: httpx.AsyncClient) -> None:
    opened.builder.knobs.effect = 0.5
    found = (await client.post(DIFF, json={"a": "sql", "b": "sql@canary"})).json()
    answers = found["answers"]
    assert answers["tokens"] > answers["prompts"] > 0
    assert answers["distance"] == {"mean": 0, "max": 0}  # the fake answers alike with any adapter
    assert answers["effect_a"] == answers["effect_b"] == {"mean": 0.5, "max": 0.5}
    assert found["notes"] == []
    assert [resident["id"] for resident in (await client.get("/v1/residents")).json()["data"]]


@pytest.mark.parametrize(
    ("knobs", "why"), [({"is_scoring": False}, "not scored"), ({"effect": float("nan")}, "no numbers")]
)
async def test_weights_are_compared_also_where_answers_cannot_be(
    opened: Opened, client: httpx.AsyncClient, knobs: dict[str, float], why: str
) -> None:
    for knob, value in knobs.items():
        setattr(opened.builder.knobs, knob, value)
    found = (await client.post(DIFF, json={"a": "sql", "b": "sql@canary"})).json()
    assert found["answers"] is None
    assert why in found["notes"][0]
    assert found["total"]["relative_distance"] > 1


async def test_an_adapter_may_be_called_diff(opened: Opened, client: httpx.AsyncClient) -> None:
    await opened.publish("diff", 3)
    assert (await client.get(DIFF)).json()["name"] == "diff"


async def test_versions_for_different_bases_do_not_compare(opened: Opened, client: httpx.AsyncClient) -> None:
    await opened.state.registry.add_version(
        "old", digest="0" * 64, base_fingerprint="other", rank=8, size_bytes=1, source="upload", report={}
    )
    refused = await client.post(DIFF, json={"a": "sql", "b": "old"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "wrong_base")


async def test_what_is_not_there_is_named(client: httpx.AsyncClient) -> None:
    for b, status, code in (("sql@9", 404, "version_not_found"), ("a/b", 400, "invalid_name")):
        refused = await client.post(DIFF, json={"a": "sql", "b": b})
        assert (refused.status_code, refused.json()["error"]["code"]) == (status, code)


@pytest.mark.parametrize("path", ["diff", "new/merge"])
async def test_a_comparison_or_a_merge_waits_for_a_place_as_a_publication_does(
    opened: Opened, client: httpx.AsyncClient, path: str, until: Until
) -> None:
    body: dict[str, Any] = {"a": "sql", "b": "sql@canary"}
    if path != "diff":
        body = {"versions": [{"reference": "sql", "weight": 1.0}], "method": "linear"}
    async with AsyncExitStack() as held:
        for _ in range(AT_ONCE):
            await held.enter_async_context(opened.state.publisher.places.place("other"))
        waiting = asyncio.create_task(client.post(f"/v1/adapters/{path}", json=body))
        await until(lambda: bool(opened.state.publisher.places.waiting))
        assert opened.state.admission.in_flight == 1
    assert (await waiting).is_success


async def test_a_comparison_waits_for_its_turn_with_the_engine(
    opened: Opened, client: httpx.AsyncClient, until: Until
) -> None:
    running = opened.state.engine.running()
    others = [running.scheduler.request(10**6 + number, DEMAND) for number in range(running.engine.slots)]
    waiting = asyncio.create_task(client.post(DIFF, json={"a": "sql", "b": "sql@canary"}))
    await until(lambda: running.scheduler.waiting == 1)
    for turn in others:
        running.scheduler.end(turn)
    assert (await waiting).json()["notes"] == []
    assert not running.scheduler.waiting
