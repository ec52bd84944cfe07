"""A repeated request with the same Idempotency-Key creates nothing twice."""

from __future__ import annotations

import asyncio

import httpx

from server.access.scope import Scope
from tests.postgres import on_both_databases
from tests.server.opened import Opened, Opening

ROWS = b'{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}\n'


async def push_file(
    client: httpx.AsyncClient, key: str | None, content: bytes = ROWS, **headers: str
) -> httpx.Response:
    headers |= {} if key is None else {"Idempotency-Key": key}
    files = {"purpose": (None, "fine-tune"), "file": ("train.jsonl", content)}
    return await client.post("/v1/files", files=files, headers=headers)


async def files_of(client: httpx.AsyncClient) -> int:
    return len((await client.get("/v1/files")).json()["data"])


async def test_a_repeated_upload_gets_the_first_answer_although_its_form_has_another_boundary(opened: Opened) -> None:
    first, second = [await push_file(opened.client, "a") for _ in range(2)]
    assert first.request.headers["content-type"] != second.request.headers["content-type"]
    assert (second.status_code, second.json()) == (200, first.json())
    assert second.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    assert await files_of(opened.client) == 1


async def test_requests_without_a_key_create_each_time(opened: Opened) -> None:
    assert [(await push_file(opened.client, None)).status_code for _ in range(2)] == [200, 200]
    assert await files_of(opened.client) == 2


async def test_the_key_of_another_request_is_refused(opened: Opened) -> None:
    await push_file(opened.client, "a")
    other = await push_file(opened.client, "a", ROWS * 2)
    assert other.status_code == 422
    assert other.json()["error"]["param"] == "Idempotency-Key"
    assert await files_of(opened.client) == 1


@on_both_databases
async def test_a_repeated_publication_makes_one_version(opened: Opened) -> None:
    files = opened.make_adapter().multipart()
    send = [
        await opened.client.post("/v1/adapters/sql/versions", files=files, headers={"Idempotency-Key": "a"})
        for _ in range(2)
    ]
    assert [response.status_code for response in send] == [201, 201]
    assert send[0].json() == send[1].json()
    assert (await opened.client.get("/v1/adapters/sql/versions")).json()["data"][-1]["version"] == 1


async def test_a_refused_request_may_be_sent_again(opened: Opened) -> None:
    for _ in range(2):
        response = await opened.client.post(
            "/v1/fine_tuning/jobs",
            json={"model": "base", "training_file": "file-none"},
            headers={"Idempotency-Key": "a"},
        )
        assert response.status_code == 400
    assert (await push_file(opened.client, "a")).status_code == 200


async def test_a_request_in_flight_keeps_its_key(opened: Opened) -> None:
    answers = opened.state.accounts.answers
    assert await answers.claim("", "a") is None
    response = await push_file(opened.client, "a")
    assert response.status_code == 409
    assert "not answered yet" in response.json()["error"]["message"]


@on_both_databases
async def test_of_parallel_requests_one_creates(opened: Opened) -> None:
    statuses = [each.status_code for each in await asyncio.gather(*(push_file(opened.client, "a") for _ in range(8)))]
    assert set(statuses) <= {200, 409}
    assert 200 in statuses
    assert await files_of(opened.client) == 1


async def test_the_answer_outlives_the_server(opening: Opening) -> None:
    async with opening() as opened:
        first = await push_file(opened.client, "a")
    async with opening() as opened:
        assert (await push_file(opened.client, "a")).json() == first.json()
        assert await files_of(opened.client) == 1


async def test_keys_of_two_callers_are_apart(opened: Opened) -> None:
    _, mine = await opened.state.keys.create("mine", [Scope.ADMIN])
    _, other = await opened.state.keys.create("other", [Scope.ADMIN])
    responses = [await push_file(opened.client, "a", authorization=f"Bearer {key}") for key in (mine, other)]
    assert responses[0].json()["id"] != responses[1].json()["id"]
