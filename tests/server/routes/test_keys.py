"""API keys over HTTP: created, listed, rotated, revoked."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from server.access.scope import Scope
from tests.server.opened import Opened


@pytest.fixture
async def operator(opened: Opened, client: httpx.AsyncClient) -> httpx.AsyncClient:
    _, secret = await opened.state.keys.create("ops", [Scope.ADMIN])
    client.headers["Authorization"] = f"Bearer {secret}"
    return client


async def created(operator: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    response = await operator.post("/v1/keys", json={"name": "app", **fields})
    assert response.status_code == 201, response.text
    key: dict[str, Any] = response.json()
    return key


async def status(operator: httpx.AsyncClient, secret: str) -> int:
    return (await operator.get("/v1/models", headers={"Authorization": f"Bearer {secret}"})).status_code


async def listed(operator: httpx.AsyncClient, field: str) -> dict[str, Any]:
    return {key["id"]: key[field] for key in (await operator.get("/v1/keys")).json()["data"]}


async def test_a_created_key_works_and_its_secret_is_shown_only_once(operator: httpx.AsyncClient) -> None:
    key = await created(operator, scopes=["infer", "files"])
    assert (key["object"], key["project"], sorted(key["scopes"])) == ("api_key", "default", ["files", "infer"])
    assert await status(operator, key["value"]) == 200
    response = await operator.get("/v1/keys")
    assert {each["name"] for each in response.json()["data"]} == {"ops", "app"}
    assert key["value"] not in response.text


async def test_a_revoked_key_ends_at_once(operator: httpx.AsyncClient) -> None:
    key = await created(operator)
    assert (await operator.delete(f"/v1/keys/{key['id']}")).json()["revoked_at"] is not None
    assert await status(operator, key["value"]) == 401


async def test_a_rotated_key_is_replaced_by_one_with_the_same_rights(operator: httpx.AsyncClient) -> None:
    key = await created(operator, adapters=["team-*"], expires_at=4_000_000_000)
    response = await operator.post(f"/v1/keys/{key['id']}/rotate")
    assert response.status_code == 201
    rotated = response.json()
    same = ("name", "scopes", "project", "adapters", "expires_at")
    assert [rotated[field] for field in same] == [key[field] for field in same]
    assert (await status(operator, rotated["value"]), await status(operator, key["value"])) == (200, 401)
    assert (await operator.post(f"/v1/keys/{key['id']}/rotate")).status_code == 404


async def test_a_rotated_key_stays_valid_for_the_grace(operator: httpx.AsyncClient) -> None:
    key = await created(operator)
    rotated = (await operator.post(f"/v1/keys/{key['id']}/rotate", json={"grace_s": 3600})).json()
    assert [await status(operator, each["value"]) for each in (key, rotated)] == [200, 200]
    ends = await listed(operator, "expires_at")
    assert ends[key["id"]] is not None
    assert ends[rotated["id"]] is None


async def test_the_list_has_the_last_use_of_each_key(operator: httpx.AsyncClient) -> None:
    used, unused = await created(operator), await created(operator)
    await status(operator, used["value"])
    uses = await listed(operator, "last_used_at")
    assert uses[used["id"]] >= used["created_at"]
    assert uses[unused["id"]] is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"scopes": ["root"]}, "scopes"),
        ({"scopes": []}, "scopes"),
        ({"name": " "}, "name"),
        ({"expires_at": 1}, "expires_at"),
        ({"expires_at": "2999-01-01T00:00:00"}, "expires_at"),
        ({"scopes": ["admin"], "adapters": ["a"]}, "adapters"),
        ({"project": "no/project"}, "project"),
        ({"project": "p" * 65}, "project"),
        ({"adapters": []}, "adapters"),
    ],
)
async def test_a_key_that_could_not_work_is_refused(
    operator: httpx.AsyncClient, fields: dict[str, Any], param: str
) -> None:
    response = await operator.post("/v1/keys", json={"name": "app", **fields})
    assert response.status_code == 400
    assert param in response.json()["error"]["param"]


@pytest.mark.parametrize("verb", ["revoke", "rotate"])
async def test_a_key_that_does_not_exist_is_a_404(operator: httpx.AsyncClient, verb: str) -> None:
    path = "/v1/keys/aaaaaaaa"
    response = await (operator.delete(path) if verb == "revoke" else operator.post(f"{path}/rotate"))
    assert response.status_code == 404
