"""Health, readiness, residents."""

from __future__ import annotations

import httpx
import pytest

from server.access.scope import Scope
from tests.server.opened import Opened, Opening
from tests.until import Until


async def test_a_living_process_says_so_without_an_engine(opening: Opening) -> None:
    async with opening(ready=False, builder=None) as opened:
        assert (await opened.client.get("/health")).json() == {"status": "alive"}


async def test_readiness_follows_the_engine(opening: Opening, until: Until) -> None:
    async with opening() as opened:
        ready = await opened.client.get("/ready")
        assert (ready.status_code, ready.json()) == (200, {"status": "ready"})
        opened.state.engine.set_silent(True)
        silent = await opened.client.get("/ready")
        assert (silent.status_code, silent.json()) == (503, {"status": "silent"})
        opened.state.engine.set_silent(False)
        opened.engine.die()
        dead = await opened.client.get("/ready")
        assert (dead.status_code, dead.json()) == (503, {"status": "rebuilding"})
        assert dead.headers["retry-after"] == "1"
        await until(lambda: len(opened.builder.engines) == 2)
        await opened.until_ready()
        assert (await opened.client.get("/ready")).status_code == 200


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_ping_is_answered_as_readiness_and_without_a_key(opened: Opened, method: str) -> None:
    await opened.state.keys.create("ops", [Scope.ADMIN])
    assert (await opened.client.request(method, "/ping")).status_code == 200
    opened.engine.die()
    assert (await opened.client.request(method, "/ping")).status_code == 503


async def test_the_version_is_vllm_s(client: httpx.AsyncClient) -> None:
    assert (await client.get("/version")).json() == {"version": "0.32.0"}


async def test_the_context_is_listed_while_an_engine_is_rebuilt_and_unknown_before_the_first(opening: Opening) -> None:
    async with opening(ready=False) as opened:
        opened.builder.knobs.start_s = 0.1
        models = (await opened.client.get("/v1/models")).json()["data"]
        assert [model["max_model_len"] for model in models] in ([], [None])
        await opened.until_ready()
        opened.engine.die()
        models = (await opened.client.get("/v1/models")).json()["data"]
        assert [model["max_model_len"] for model in models] == [opened.engine.context]


async def test_a_draining_process_is_not_ready(opened: Opened, client: httpx.AsyncClient) -> None:
    assert await opened.state.admission.drain(0.1)
    response = await client.get("/ready")
    assert (response.status_code, response.json()) == (503, {"status": "draining"})


async def test_residents_are_listed_least_recently_used_first(opened: Opened, client: httpx.AsyncClient) -> None:
    for name in ("sql", "poet"):
        await opened.publish(name)
    for name in ("sql", "poet", "sql"):
        await opened.answer(name)
    listed = (await client.get("/v1/residents")).json()
    size = opened.state.registry.catalog.version("sql", 1).size_bytes
    assert listed["data"] == [
        {"object": "resident", "id": "poet@1", "state": "resident", "leases": 0, "bytes": size},
        {"object": "resident", "id": "sql@1", "state": "resident", "leases": 0, "bytes": size},
    ]


async def test_the_metrics_page_shows_our_series_and_those_of_the_whole_process(
    opened: Opened, client: httpx.AsyncClient
) -> None:
    await opened.publish("sql")
    await opened.answer("sql")
    response = await client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    assert 'patchbay_requests_total{adapter="sql",status="200"} 1.0' in response.text
    assert "patchbay_engine_ready 1.0" in response.text
    assert "python_info" in response.text
