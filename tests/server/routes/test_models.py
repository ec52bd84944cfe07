"""OpenAI's model routes, and OpenAI's own client."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import httpx
import openai
import pytest
from starlette.types import ASGIApp, Message

from adapters.names import FineTunedName
from adapters.versions import Adapter, Alias, Version
from tests.server.opened import Listening, Opened

RESULT = FineTunedName("ft:Qwen/Qwen3-8B:patchbay:sql:abc")
CHECKPOINT = FineTunedName(f"{RESULT}:ckpt-step-88")


@pytest.fixture
async def trained(opened: Opened) -> Opened:
    """``sql`` has two versions; the second is `stable`, the result of a job and its checkpoint."""
    for seed in (1, 2):
        await opened.publish("sql", seed)
    for name in (CHECKPOINT, RESULT):
        await opened.state.registry.name_result("sql", 2, name, report={})
    return opened


@pytest.fixture
async def sdk(opened: Opened, listening: Listening) -> AsyncIterator[openai.AsyncOpenAI]:
    async with (
        listening(opened.app) as url,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


async def test_openai_s_client_lists_shows_and_deletes(opened: Opened, sdk: openai.AsyncOpenAI) -> None:
    published = await opened.publish("sql")
    await opened.publish("sql", 2, alias="canary")
    assert [model.id async for model in sdk.models.list()] == ["base", "sql"]
    shown = await sdk.models.retrieve("sql")
    assert (shown.id, shown.object, shown.owned_by) == ("sql", "model", "patchbay")
    assert shown.to_dict()["root"] == "sql@1"
    for model in ("base", "sql", "sql@2"):
        assert (await sdk.models.retrieve(model)).to_dict()["max_model_len"] == opened.engine.context
    assert {model.to_dict()["max_model_len"] async for model in sdk.models.list()} == {opened.engine.context}
    assert shown.to_dict()["digest"] == published["digest"]
    assert (await sdk.models.retrieve("sql@canary")).to_dict()["root"] == "sql@2"
    assert (await sdk.models.retrieve("base")).to_dict()["parent"] is None
    deleted = await sdk.models.delete("sql")
    assert (deleted.id, deleted.deleted) == ("sql", True)
    with pytest.raises(openai.NotFoundError) as unknown:
        await sdk.models.retrieve("sql")
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        await sdk.models.delete("sql")


async def test_openai_s_client_chats_and_streams(opened: Opened, sdk: openai.AsyncOpenAI) -> None:
    await opened.publish("sql")
    answer = await sdk.chat.completions.create(model="sql", messages=[{"role": "user", "content": "hello"}])
    assert (answer.model, answer.choices[0].message.content) == ("sql@1", "sql@1")
    stream = await sdk.chat.completions.create(
        model="sql", messages=[{"role": "user", "content": "hello"}], stream=True, max_tokens=3
    )
    assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "sql@1 sql@1 sql@1 "
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        await sdk.chat.completions.create(model="nobody", messages=[{"role": "user", "content": "hello"}])


async def test_openai_s_client_finds_a_fine_tuned_model_and_its_checkpoints(
    trained: Opened, sdk: openai.AsyncOpenAI
) -> None:
    listed = {model.id: model async for model in sdk.models.list()}
    assert list(listed) == ["base", "sql", RESULT.text]
    shown = await sdk.models.retrieve(RESULT.text)
    assert shown == listed[RESULT.text]
    assert (shown.id, shown.object, shown.owned_by) == (RESULT.text, "model", "patchbay")
    assert (shown.to_dict()["root"], shown.to_dict()["parent"]) == ("sql@2", "base")
    assert (await sdk.models.retrieve(CHECKPOINT.text)).to_dict()["root"] == "sql@2"
    answer = await sdk.chat.completions.create(model=CHECKPOINT.text, messages=[{"role": "user", "content": "hello"}])
    assert answer.model == "sql@2"


async def test_openai_s_client_deletes_a_fine_tuned_model(trained: Opened, sdk: openai.AsyncOpenAI) -> None:
    deleted = await sdk.models.delete(RESULT.text)
    assert (deleted.id, deleted.deleted) == (RESULT.text, True)
    for name in (RESULT, CHECKPOINT):
        for unknown in (sdk.models.retrieve(name.text), sdk.models.delete(name.text)):
            with pytest.raises(openai.NotFoundError) as refused:
                await unknown
            assert refused.value.code == "model_not_found"
    assert "sql@2" not in trained.residents
    assert await trained.answer("sql@1") == "sql@1"
    assert (await trained.chat("sql")).json()["error"]["code"] == "alias_not_found"


async def test_a_pinned_fine_tuned_model_is_not_deleted(trained: Opened, client: httpx.AsyncClient) -> None:
    await client.post("/v1/adapters/sql/versions/2/pin")
    response = await client.delete(f"/v1/models/{RESULT}")
    assert (response.status_code, response.json()["error"]["code"]) == (409, "version_in_use")
    assert await trained.answer("sql") == "sql@2"


@pytest.mark.parametrize("model", ["ft:base:patchbay:sql", "org/model"])
async def test_what_can_name_nothing_is_not_deleted(client: httpx.AsyncClient, model: str) -> None:
    response = await client.delete(f"/v1/models/{model}")
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_name")


async def test_deleting_a_version_by_the_model_route_does_not_delete_the_adapter(
    opened: Opened, client: httpx.AsyncClient
) -> None:
    await opened.publish("sql")
    response = await client.delete("/v1/models/sql@1")
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_name")
    assert await opened.answer("sql") == "sql@1"


async def test_the_base_is_not_deleted(client: httpx.AsyncClient) -> None:
    assert (await client.delete("/v1/models/base")).status_code == 404
    assert (await client.get("/v1/models/base")).status_code == 200


@pytest.mark.parametrize(
    "model", ["nobody", "sql@9", "sql@beta", "org/model", "sql@", "a b", "ft:base:patchbay::abc", "ft:"]
)
async def test_an_unknown_model_is_not_found(opened: Opened, client: httpx.AsyncClient, model: str) -> None:
    await opened.publish("sql")
    assert (await client.get(f"/v1/models/{model}")).status_code == 404


async def test_thousands_of_models_come_in_pieces_and_all_of_them(opened: Opened, client: httpx.AsyncClient) -> None:
    opened.state.registry.catalog.replace([adapter(f"adapter-{number:04}", number) for number in range(3000)], [])
    pieces = []
    async with client.stream("GET", "/v1/models") as response:
        pieces = [piece async for piece in response.aiter_raw()]
    listed = json.loads(b"".join(pieces))
    ids = [model["id"] for model in listed["data"]]
    assert ids == ["base", *(f"adapter-{number:04}" for number in range(3000))]
    assert listed["data"][1]["root"] == "adapter-0000@1"
    assert len(await messages(opened.app)) > 10


def adapter(name: str, number: int) -> Adapter:
    now = datetime.now(UTC)
    version = Version(number + 1, name, 1, "0" * 64, "base", 8, 1, "upload", now)
    return Adapter(name, now, {1: version}, {"stable": Alias(name, "stable", 1, 1, now)})


async def messages(app: ASGIApp) -> list[Message]:
    """Return the messages that the app sends for the list."""
    sent: list[Message] = []
    scope = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1", "method": "GET"}
    scope |= {"path": "/v1/models", "raw_path": b"/v1/models", "root_path": "", "query_string": b"", "headers": []}

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent
