"""Who gets in. Every route of the app is asked, so that a new one cannot be forgotten."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

from server.access.scope import Scope
from server.gateway.inference_routes import INFERENCE_ROUTES
from server.gateway.route_scopes import OPEN, ROUTE_SCOPES, scope_of
from tests.server.opened import Opened


def control_routes(app: Any) -> Any:
    """Return the routes of the control app, which is behind apps that record writes and repeated requests."""
    return app.routes if hasattr(app, "routes") else control_routes(app.app)


def routes(opened: Opened) -> list[tuple[str, str]]:
    """Return (method, path) of everything the process answers, parameters filled in."""
    gateway: Any = opened.app.app
    found = flat(control_routes(gateway.control))
    return [(method, re.sub(r"\{[^}]+\}", "1", route.path)) for route in found for method in route.methods]


def declared(opened: Opened) -> set[str]:
    """Return method and path of everything the process answers, as the app declares them."""
    gateway: Any = opened.app.app
    methods = ((method, route.path) for route in flat(control_routes(gateway.control)) for method in route.methods)
    return {f"{method} {path}" for method, path in methods if method != "HEAD" and path not in OPEN}


def flat(found: Any) -> Any:
    for route in found:
        if hasattr(route, "methods"):
            yield route
        else:
            yield from flat(route.routes)


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


async def test_every_route_but_health_and_readiness_needs_a_key(opened: Opened, client: httpx.AsyncClient) -> None:
    await opened.state.keys.create("first", [Scope.ADMIN])
    found = routes(opened)
    assert len(found) > 25
    assert {path for _, path in found} > INFERENCE_ROUTES.keys()
    for method, path in found:
        response = await client.request(method, path)
        if path in OPEN:
            assert response.status_code == 200, (method, path)
            continue
        assert response.status_code == 401, (method, path)
        assert response.headers["www-authenticate"] == "Bearer"
        if method != "HEAD":
            assert response.json()["error"]["code"] == "invalid_api_key"


async def test_every_route_has_its_scope_in_the_table_and_the_table_has_no_other(opened: Opened) -> None:
    assert declared(opened) == {route for routes in ROUTE_SCOPES.values() for route in routes}


@pytest.mark.parametrize(("scope", "route"), [(scope, each) for scope in ROUTE_SCOPES for each in ROUTE_SCOPES[scope]])
def test_a_request_needs_the_scope_of_its_route(scope: Scope, route: str) -> None:
    method, path = route.split()
    assert scope_of(method, re.sub(r"\{[^}]+\}", "1", path)) is scope


@pytest.mark.parametrize(
    "request_line", ["GET /nowhere", "PATCH /v1/models", "POST /v1/models", "GET /v1/adapters/a/b/c"]
)
def test_a_request_without_a_route_needs_administration(request_line: str) -> None:
    assert scope_of(*request_line.split()) is Scope.ADMIN


@pytest.mark.parametrize(
    "scope", [Scope.ADAPTERS_READ, Scope.ALIASES_WRITE, Scope.TRAINING, Scope.FILES, Scope.METRICS]
)
async def test_a_key_reaches_the_routes_of_its_scope_alone(
    opened: Opened, client: httpx.AsyncClient, scope: Scope
) -> None:
    _, secret = await opened.state.keys.create("app", [scope])
    client.headers.update(bearer(secret))
    for method, path in routes(opened):
        if path in OPEN or method == "HEAD":
            continue
        response = await client.request(method, path)
        assert (response.status_code == 403) == (scope_of(method, path) is not scope), (method, path)


async def test_a_path_that_is_not_there_needs_a_key_too(opened: Opened, client: httpx.AsyncClient) -> None:
    await opened.state.keys.create("first", [Scope.ADMIN])
    assert (await client.get("/nowhere")).status_code == 401
    assert (await client.get("/health/")).status_code == 401


async def test_an_empty_ring_lets_everybody_in(client: httpx.AsyncClient) -> None:
    assert (await client.get("/v1/models")).status_code == 200


async def test_a_key_for_inference_asks_and_lists_and_does_nothing_else(
    opened: Opened, client: httpx.AsyncClient
) -> None:
    _, secret = await opened.state.keys.create("app", [Scope.INFER])
    client.headers.update(bearer(secret))
    for method, path in routes(opened):
        if path in OPEN:
            continue
        stored = ("/v1/responses/", "/v1/chat/completions/", "/v1/feedback")
        is_stored = path.startswith(stored) and path != "/v1/feedback/export"
        is_asking = path in INFERENCE_ROUTES or is_stored
        may = is_asking or (path.startswith(("/v1/models", "/v1/usage", "/version")) and method in {"GET", "HEAD"})
        assert (scope_of(method, path) is Scope.INFER) == may
        if not may:
            response = await client.request(method, path)
            assert response.status_code == 403, (method, path)
            if method != "HEAD":
                assert response.json()["error"]["code"] == "insufficient_scope"
    assert (await opened.chat("base")).status_code == 200
    assert (await client.get("/v1/models")).status_code == 200


async def test_a_key_for_administration_does_everything(opened: Opened, client: httpx.AsyncClient) -> None:
    _, secret = await opened.state.keys.create("ops", [Scope.ADMIN])
    client.headers.update(bearer(secret))
    await opened.publish("sql")
    assert await opened.answer("sql") == "sql@1"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer nonsense"},
        {"Authorization": "Basic {secret}"},
        {"Authorization": "{secret}"},
        {"x-api-key": ""},
        {"Authorization": "Bearer {secret}x"},
    ],
)
async def test_anything_but_a_known_key_is_refused(
    opened: Opened, client: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    _, secret = await opened.state.keys.create("ops", [Scope.ADMIN])
    sent = {name: value.format(secret=secret) for name, value in headers.items()}
    assert (await client.get("/v1/models", headers=sent)).status_code == 401


@pytest.mark.parametrize("header", ["Authorization: Bearer ", "authorization: bearer ", "x-api-key: "])
async def test_openai_s_header_and_anthropic_s_are_read(opened: Opened, client: httpx.AsyncClient, header: str) -> None:
    _, secret = await opened.state.keys.create("app", [Scope.INFER])
    name, prefix = header.split(": ")
    assert (await client.get("/v1/models", headers={name: prefix + secret})).status_code == 200


async def test_a_revoked_key_is_refused_and_the_server_stays_closed(opened: Opened, client: httpx.AsyncClient) -> None:
    key, secret = await opened.state.keys.create("ops", [Scope.ADMIN])
    await opened.state.keys.revoke(key.id)
    assert (await client.get("/v1/models", headers=bearer(secret))).status_code == 401
    assert (await client.get("/v1/models")).status_code == 401


async def test_who_may_not_move_an_alias_does_not_move_it_by_a_publication(
    opened: Opened, client: httpx.AsyncClient
) -> None:
    await opened.publish("sql")
    _, secret = await opened.state.keys.create("ci", [Scope.ADAPTERS_WRITE])
    client.headers.update(bearer(secret))
    files = opened.make_adapter(2).multipart()
    merged = {"versions": [{"reference": "sql@1", "weight": 2}], "alias": "stable"}
    loaded = {"lora_name": "sql", "lora_path": "acme/sql", "load_inplace": True}
    refused = [
        await client.post("/v1/adapters/sql/versions", files=files, params={"alias": "stable"}),
        await client.post("/v1/adapters/sql/merge", json=merged),
        await client.post("/v1/load_lora_adapter", json=loaded),
    ]
    assert [response.status_code for response in refused] == [403, 403, 403]
    assert all("aliases:write" in response.json()["error"]["message"] for response in refused)
    assert list(opened.state.registry.catalog.adapter("sql").versions) == [1]
    assert (await opened.publish("sql", 2))["version"] == 2
    assert opened.state.registry.catalog.alias("sql", "stable").version == 1


@pytest.mark.parametrize("model", ["other", "other@stable", "other@1", "other@9", "other@nowhere", "none", "none@1"])
async def test_an_adapter_that_a_key_may_not_use_is_answered_as_one_that_does_not_exist(
    opened: Opened, client: httpx.AsyncClient, model: str
) -> None:
    await opened.publish("team-sql")
    await opened.publish("other", 2)
    _, secret = await opened.state.keys.create("app", [Scope.INFER], adapters=["team-*"])
    client.headers.update(bearer(secret))
    assert await opened.answer("team-sql") == "team-sql@1"
    listed = [each["id"] for each in (await client.get("/v1/models")).json()["data"]]
    assert "team-sql" in listed
    assert "other" not in listed
    for response in (await opened.chat(model), await client.get(f"/v1/models/{model}")):
        assert response.status_code == 404
        assert response.json()["error"]["message"] == (
            f"The model `{model}` does not exist. GET /v1/models lists the adapters; the base model is `base`."
        )
        assert "x-patchbay-adapter" not in response.headers
