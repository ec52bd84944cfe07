"""The steps of a request in the gateway."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from adapters.versions import Version
from server.access.scope import Scope
from server.engine.protocol import Generation
from server.gateway.meter import Meter
from server.gateway.request_hooks import RequestContext
from server.http.errors import error_response
from tests.server.opened import Listening, Opened, Opening
from tests.until import Until


def words(stream: str) -> set[str]:
    """Return the texts in an event stream: the fake engine writes the name of the version."""
    events = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: {")]
    return {event["choices"][0]["delta"]["content"].strip() for event in events}


async def test_a_request_id_is_echoed(client: httpx.AsyncClient) -> None:
    response = await client.get("/health", headers={"x-request-id": "mine"})
    assert response.headers["x-request-id"] == "mine"


async def test_a_request_without_id_gets_one_of_its_own(opened: Opened) -> None:
    ids = [(await response).headers["x-request-id"] for response in (opened.chat("base"), opened.chat("nobody"))]
    assert all(re.fullmatch(r"[0-9a-f]{32}", number) for number in ids)
    assert len(set(ids)) == 2


async def test_an_overlong_request_id_is_cut(client: httpx.AsyncClient) -> None:
    response = await client.get("/health", headers={"x-request-id": "x" * 1000})
    assert response.headers["x-request-id"] == "x" * 128


async def test_a_stream_finishes_on_its_version_and_the_next_request_is_on_the_new_one(
    opened: Opened, client: httpx.AsyncClient
) -> None:
    await opened.publish("sql")
    await opened.publish("sql", 2)
    caller = opened.call("sql")
    status, headers = await caller.start()
    assert (status, headers["x-patchbay-adapter"]) == (200, "sql@1")
    assert (await client.post("/v1/adapters/sql/promote", json={"version": 2})).status_code == 200
    assert await opened.answer("sql") == "sql@2"
    assert words(await caller.rest()) == {"sql@1"}


async def test_a_stream_finishes_though_its_adapter_is_deleted(
    opened: Opened, client: httpx.AsyncClient, until: Until
) -> None:
    await opened.publish("sql")
    caller = opened.call("sql")
    await caller.start()
    await caller.message()
    await client.delete("/v1/adapters/sql")
    assert (await opened.chat("sql")).status_code == 404
    assert opened.residents["sql@1"][0] == "draining"
    assert words(await caller.rest()) == {"sql@1"}
    await until(lambda: opened.residents == {})


async def test_a_version_is_held_for_as_long_as_its_stream_runs(opened: Opened) -> None:
    await opened.publish("sql")
    caller = opened.call("sql")
    await caller.start()
    await caller.message()
    assert opened.residents["sql@1"] == ("resident", 2)  # the request's and the generation's
    await caller.rest()
    assert opened.residents["sql@1"] == ("resident", 0)


async def test_a_client_that_leaves_gives_its_leases_back(opened: Opened) -> None:
    await opened.publish("sql")
    caller = opened.call("sql", words=10**6)
    await caller.start()
    await caller.message()
    await caller.leave()
    assert opened.residents["sql@1"] == ("resident", 0)


async def test_a_connection_that_breaks_gives_its_leases_back(
    opened: Opened, listening: Listening, until: Until
) -> None:
    await opened.publish("sql")
    async with listening(opened.app) as url, httpx.AsyncClient(base_url=url) as client:
        body = {"model": "sql", "stream": True, "max_tokens": 10**9}
        async with client.stream("POST", "/v1/chat/completions", json=body) as response:
            assert response.headers["x-patchbay-adapter"] == "sql@1"
            await anext(response.aiter_raw(chunk_size=1))
            assert opened.residents["sql@1"][1] > 0
        await until(lambda: opened.residents["sql@1"] == ("resident", 0))


async def test_a_client_that_leaves_during_a_cold_start_gives_its_lease_back(opened: Opened, until: Until) -> None:
    await opened.publish("sql")
    opened.builder.knobs.load_s = 0.05
    caller = opened.call("sql")
    await until(lambda: "sql@1" in opened.residents)
    await caller.close()
    await until(lambda: opened.residents == {"sql@1": ("resident", 0)})


async def test_a_draining_server_takes_nothing_new_and_finishes_what_it_has(opened: Opened) -> None:
    caller = opened.call("base")
    await caller.start()
    draining = asyncio.create_task(opened.state.admission.drain(20))
    await asyncio.sleep(0)
    refused = await opened.chat("base")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
    assert int(refused.headers["retry-after"]) > 0
    assert not draining.done()
    assert words(await caller.rest()) == {"base"}
    assert await draining


async def test_a_drain_whose_time_is_up_says_so(opened: Opened) -> None:
    caller = opened.call("base")
    await caller.start()
    assert not await opened.state.admission.drain(0.01)


async def test_one_request_too_many_is_told_to_come_again(opening: Opening) -> None:
    async with opening(max_in_flight=1) as opened:
        caller = opened.call("base")
        await caller.start()
        refused = await opened.chat("base")
        assert (refused.status_code, refused.json()["error"]["type"]) == (429, "rate_limit_error")
        assert (refused.json()["error"]["code"], refused.headers["retry-after"]) == ("overloaded", "1")
        assert (await opened.client.get("/v1/models")).status_code == 200
        await caller.rest()
        assert (await opened.chat("base")).status_code == 200


async def test_a_request_for_which_no_room_is_found_is_told_to_come_again(opening: Opening) -> None:
    async with opening(max_residents=2, load_wait_s=0.01) as opened:
        for seed, name in enumerate(("one", "two", "three")):
            await opened.publish(name, seed)
        callers = [opened.call(name) for name in ("one", "two")]
        for caller in callers:
            assert (await caller.start())[0] == 200
        refused = await opened.chat("three")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "no_room")
        assert int(refused.headers["retry-after"]) > 0
        for caller in callers:
            await caller.rest()
        assert await opened.answer("three") == "three@1"


async def test_an_adapter_the_engine_cannot_load_is_refused_in_our_words(opened: Opened) -> None:
    await opened.publish_cold("sql")
    opened.builder.knobs.is_refusing_loads = True
    refused = await opened.chat("sql")
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "adapter_refused")
    opened.builder.knobs.is_refusing_loads = False
    assert await opened.answer("sql") == "sql@1"


async def test_a_death_in_a_stream_is_told_in_the_stream(opened: Opened) -> None:
    await opened.publish("sql")
    caller = opened.call("sql")
    await caller.start()
    await caller.message()
    opened.engine.die()
    assert "EngineCore died" in await caller.rest()


async def test_a_dead_engine_is_not_asked(opened: Opened) -> None:
    await opened.publish("sql")
    opened.engine.die()
    for model in ("sql", "base", "nobody"):
        refused = await opened.chat(model)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_not_ready")
        assert int(refused.headers["retry-after"]) > 0


async def test_embeddings_of_a_chat_model_are_refused_with_what_they_take(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/embeddings", json={"model": "base", "input": "x"})
    assert (response.status_code, response.json()["error"]["code"]) == (404, "unsupported_by_base")
    assert "an embedding model" in response.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
async def test_errors_are_anthropic_s_on_anthropic_s_routes(client: httpx.AsyncClient, path: str) -> None:
    response = await client.post(path, json={"model": "base"})
    assert response.status_code == 404
    assert response.json()["type"] == "error"
    assert response.json()["error"]["type"] == "not_found_error"
    assert response.json()["error"]["message"]


async def test_errors_are_openai_s_elsewhere(opened: Opened) -> None:
    from adapters.errors import AdapterNotFound

    body = json.loads(error_response(AdapterNotFound("none", param="model"), "/v1/responses").body)
    error = {"message": "none", "type": "not_found_error", "param": "model", "code": "model_not_found"}
    assert body == {"error": error}


async def test_a_route_that_is_not_there_is_an_openai_error(client: httpx.AsyncClient) -> None:
    for method, path, status, allowed in (
        ("GET", "/nowhere", 404, None),
        ("PATCH", "/v1/adapters", 405, "GET"),
        ("GET", "/v1/chat/completions", 405, "POST"),
    ):
        response = await client.request(method, path)
        assert response.status_code == status
        reason = {404: f"there is no {method} {path}; /docs", 405: f"{path} takes {allowed}, not {method}"}
        assert reason[status] in response.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_that_takes_too_long_is_given_up(opening: Opening, until: Until, stream: bool) -> None:
    async with opening(request_timeout_s=0.3) as opened:
        await opened.publish("sql")
        opened.builder.knobs.token_s = 0.01
        if stream:
            late = await opened.chat("sql", max_tokens=100_000, stream=True)
            *_, error, end = late.text.split("\n\n")
            assert (late.status_code, "request_timeout" in error, end) == (200, True, "")
            assert error.startswith("event: error\ndata: {")
        else:
            late = await opened.chat("sql", max_tokens=100_000)
            assert (late.status_code, late.json()["error"]["code"]) == (504, "request_timeout")
        await until(lambda: not opened.state.engine.running().scheduler.running_keys)
        assert opened.residents["sql@1"] == ("resident", 0)


async def test_an_adapter_under_which_the_engine_computes_nan_is_quarantined(
    opened: Opened, client: httpx.AsyncClient, until: Until
) -> None:
    for name in ("sql", "poet"):
        await opened.publish(name)
    opened.builder.knobs.effect = float("nan")
    refused = await opened.chat("sql")
    assert (refused.status_code, refused.json()["error"]["code"]) == (424, "adapter_quarantined")
    opened.builder.knobs.effect = -0.25
    assert (await opened.chat("sql")).json() == refused.json()
    assert (await client.post("/v1/adapters/sql/versions/1/load")).status_code == 424
    assert (await client.get("/v1/adapters/sql/versions/1")).json()["residency"] == "quarantined"
    await until(lambda: list(opened.residents) == ["poet@1"])
    assert [await opened.answer(model) for model in ("poet", "base")] == ["poet@1", "base"]


async def test_a_quarantine_outlives_a_restart_until_it_is_lifted(opening: Opening, until: Until) -> None:
    async with opening() as opened:
        await opened.publish("sql")
        opened.builder.knobs.effect = float("nan")
        assert (await opened.chat("sql")).status_code == 424
        registry = opened.state.registry
        await until(lambda: registry.catalog.version("sql", 1).quarantine == "nan")
    async with opening() as restarted:
        refused = await restarted.chat("sql")
        assert (refused.status_code, refused.json()["error"]["code"]) == (424, "adapter_quarantined")
        assert "patchbay adapters unquarantine sql@1" in refused.json()["error"]["message"]
        shown = (await restarted.client.get("/v1/adapters/sql/versions/1")).json()
        assert (shown["residency"], shown["quarantine"]) == ("quarantined", "nan")
        lifted = await restarted.client.post("/v1/adapters/sql/versions/1/unquarantine")
        assert (lifted.status_code, lifted.json()["quarantine"]) == (200, None)
        assert await restarted.answer("sql") == "sql@1"


async def test_projects_share_no_prefix_cache_and_the_log_names_the_key_of_each_request(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    scopes, generation = [], Meter.generation

    def noted(meter: Meter, version: Version | None, each: Generation, **facts: Any) -> Any:
        scopes.append(each.cache_scope)
        return generation(meter, version, each, **facts)

    monkeypatch.setattr(Meter, "generation", noted)
    keys = []
    with capture_logs() as lines:
        for project in ("acme", "default"):
            key, secret = await opened.state.keys.create(project, [Scope.INFER], project=project)
            opened.client.headers["Authorization"] = f"Bearer {secret}"
            assert await opened.answer("base") == "base"
            keys.append(key.id)
    assert scopes == ["acme", None]
    assert [line["key"] for line in lines if line["event"] == "request"] == keys


async def test_a_version_that_was_loaded_at_two_deaths_is_not_loaded_a_third_time(
    opening: Opening, until: Until
) -> None:
    async with opening(max_engine_deaths=5, engine_death_window_s=600.0) as opened:
        await opened.publish("poet")
        await opened.publish_cold("sql")
        await opened.client.post("/v1/adapters/poet/versions/1/pin")
        for count in (1, 2):
            opened.builder.knobs.is_stepped = True
            asked = asyncio.create_task(opened.chat("sql"))
            await until(lambda: any(call == "load" for call, _ in opened.engine.pending))
            opened.builder.knobs.is_stepped = False
            opened.engine.die()
            assert (await asked).status_code == 503
            await until(lambda: len(opened.builder.engines) == count + 1)  # noqa: B023 - awaited at once
            await opened.until_ready()
        refused = await opened.chat("sql")
        assert (refused.status_code, refused.json()["error"]["code"]) == (424, "adapter_quarantined")
        assert "the engine died twice while it loaded it" in refused.json()["error"]["message"]
        assert await opened.answer("poet") == "poet@1"


async def test_a_request_that_was_computed_at_two_deaths_is_not_tried_a_third_time(
    opened: Opened, until: Until
) -> None:
    await opened.publish("sql")
    opened.builder.knobs.token_s = 0.005
    for count in (1, 2):
        asked = asyncio.create_task(opened.chat("sql", max_tokens=1000))
        await until(lambda: opened.state.engine.running().scheduler.running_keys)
        opened.engine.die()
        response = await asked
        assert (response.status_code, response.json()["error"]["code"]) == (503, "engine_not_ready"), count
        assert response.headers["retry-after"]
        await until(lambda: len(opened.builder.engines) == count + 1)  # noqa: B023 - awaited at once
        await opened.until_ready()
    refused = await opened.chat("sql", max_tokens=1000)
    assert (refused.status_code, refused.json()["error"]["code"]) == (424, "request_refused")
    assert (await opened.chat("sql", max_tokens=1)).status_code == 200


async def test_a_popular_request_that_was_answered_between_two_deaths_is_answered_after_them(
    opened: Opened, until: Until
) -> None:
    await opened.publish("sql")
    for count in (1, 2):
        opened.builder.knobs.token_s = 0.5
        asked = asyncio.create_task(opened.chat("sql", max_tokens=20))
        await until(lambda: opened.state.engine.running().scheduler.running_keys)
        opened.engine.die()
        assert (await asked).status_code == 503
        await until(lambda: len(opened.builder.engines) == count + 1)  # noqa: B023 - awaited at once
        await opened.until_ready()
        opened.builder.knobs.token_s = 0.0
        assert (await opened.chat("sql", max_tokens=20)).status_code == 200, count


def test_a_request_is_done_once_the_engine_has_computed_all_its_generations() -> None:
    context = RequestContext()
    done = [context.is_done]
    for context.begun, context.finished in ((1, 0), (2, 1), (2, 2)):
        done.append(context.is_done)
    assert done == [False, False, False, True]


async def test_a_quarantine_outlives_the_engine_and_not_the_next_version(opened: Opened, until: Until) -> None:
    await opened.publish("sql")
    opened.builder.knobs.effect = float("nan")
    caller = opened.call("sql")
    assert (await caller.start())[0] == 200  # a stream has begun before its first word: the error is told in it
    assert "EngineCore died" in await caller.rest()
    opened.builder.knobs.effect = -0.25
    opened.engine.die()
    await until(lambda: len(opened.builder.engines) == 2)
    await opened.until_ready()
    assert (await opened.chat("sql")).status_code == 424
    await opened.publish("sql", 2, alias="stable")
    assert await opened.answer("sql") == "sql@2"
