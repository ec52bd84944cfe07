"""Requests over a limit of their key or project are refused; all others are answered."""

from __future__ import annotations

import pytest

from server.access.scope import Scope
from server.settings import Settings
from tests.postgres import on_both_databases
from tests.server.opened import Opened, Opening
from tests.until import Until

pytest.importorskip("limits")


async def test_requests_over_the_limit_of_a_key_are_refused_with_openais_headers(opened: Opened, key_id: str) -> None:
    await opened.limit("key", key_id, requests_per_minute=2)
    first, _, third = [await opened.chat("base") for _ in range(3)]
    assert (first.headers["x-ratelimit-limit-requests"], first.headers["x-ratelimit-remaining-requests"]) == ("2", "1")
    assert third.status_code == 429
    assert third.json()["error"]["code"] == "rate_limit_exceeded"
    assert third.headers["x-ratelimit-remaining-requests"] == "0"
    assert third.headers["x-ratelimit-reset-requests"] == third.headers["retry-after"] + "s"
    assert 1 <= int(third.headers["retry-after"]) <= 60


async def test_tokens_are_charged_after_the_answer(opened: Opened, key_id: str) -> None:
    await opened.limit("key", key_id, tokens_per_minute=10)
    first, second, third = [await opened.chat("base", max_tokens=8) for _ in range(3)]
    assert [each.status_code for each in (first, second, third)] == [200, 200, 429]
    assert first.headers["x-ratelimit-remaining-tokens"] == "10"
    assert second.headers["x-ratelimit-remaining-tokens"] == "2"
    assert third.headers["x-ratelimit-remaining-tokens"] == "0"


async def test_keys_of_a_project_share_its_limit(opened: Opened, key_id: str) -> None:
    await opened.limit("project", "default", requests_per_minute=2)
    _, secret = await opened.state.keys.create("other", [Scope.ADMIN])
    await opened.chat("base")
    opened.client.headers["authorization"] = f"Bearer {secret}"
    assert [(await opened.chat("base")).status_code for _ in range(2)] == [200, 429]


async def test_the_headers_are_those_of_the_tighter_limit(opened: Opened, key_id: str) -> None:
    await opened.limit("project", "default", requests_per_minute=2)
    await opened.limit("key", key_id, requests_per_minute=100)
    assert (await opened.chat("base")).headers["x-ratelimit-limit-requests"] == "2"


async def test_requests_at_once_are_limited(opened: Opened, until: Until) -> None:
    await opened.limit("project", "default", concurrent_requests=1)
    running = opened.call("base")
    assert (await running.start())[0] == 200
    response = await opened.chat("base")
    assert response.status_code == 429
    assert "concurrent" in response.json()["error"]["message"]
    await running.leave()
    assert (await opened.chat("base")).status_code == 200


async def test_control_requests_are_not_limited(opened: Opened, key_id: str) -> None:
    await opened.limit("key", key_id, requests_per_minute=1)
    assert [(await opened.client.get("/v1/adapters")).status_code for _ in range(3)] == [200] * 3


async def test_defaults_hold_where_nothing_is_stored(opening: Opening) -> None:
    async with opening(project_limits=("requests_per_minute=1", "tokens_per_minute=5")) as opened:
        assert [(await opened.chat("base")).status_code for _ in range(2)] == [200, 429]
        await opened.limit("project", "default", requests_per_minute=None)
        answer = await opened.chat("base")
        assert answer.status_code == 200
        assert "x-ratelimit-limit-requests" not in answer.headers
        assert answer.headers["x-ratelimit-limit-tokens"] == "5"
        await opened.client.delete("/v1/limits/project/default")
        assert (await opened.chat("base")).status_code == 429


@on_both_databases
async def test_limits_reach_a_server_that_shares_the_database(opening: Opening, until: Until) -> None:
    async with opening(follow_interval_s=0.01) as one, opening(follow_interval_s=0.01) as two:
        await one.limit("project", "default", requests_per_minute=1)
        await until(lambda: two.state.accounts.limits.list())
        assert [(await two.chat("base")).status_code for _ in range(2)] == [200, 429]


async def test_answers_without_limits_have_no_headers_of_them(opened: Opened) -> None:
    assert not [name for name in (await opened.chat("base")).headers if name.startswith("x-ratelimit")]


@pytest.mark.parametrize("body", [{"requests_per_minute": 0}, {"requests": 5}])
async def test_limits_that_are_none_are_refused(opened: Opened, body: dict[str, int]) -> None:
    response = await opened.client.put("/v1/limits/project/default", json=body)
    assert response.status_code == 400
    assert next(iter(body)) in response.json()["error"]["message"]


async def test_a_key_that_does_not_exist_has_no_limits(opened: Opened) -> None:
    assert (await opened.client.put("/v1/limits/key/none", json={})).status_code == 404
    assert (await opened.client.delete("/v1/limits/key/none")).status_code == 404


@pytest.mark.parametrize("text", ["requests_per_minute", "requests=1", "requests_per_minute=x"])
def test_a_flag_that_is_no_limit_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="key_limits"):
        Settings(key_limits=(text,))
