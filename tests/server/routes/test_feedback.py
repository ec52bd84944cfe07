"""Feedback on answers that were made with OpenAI's own client, on an engine that answers with its model's name."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai as client_library
import pytest
from openai import AsyncOpenAI

from server.access.scope import Scope
from tests.postgres import on_both_databases
from tests.server.opened import Opened, Opening
from tests.server.routes.conftest import Official

FEEDBACK = "/v1/feedback"
QUESTION: list[Any] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who are you?"}]


async def answer(openai: AsyncOpenAI, model: str = "base", **options: Any) -> str:
    made = await openai.chat.completions.create(model=model, messages=QUESTION, **{"store": True, **options})
    return made.id


async def give(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    response = await client.post(FEEDBACK, json=body)
    assert response.status_code == 200, response.text
    stored: dict[str, Any] = response.json()
    return stored


async def refused(client: httpx.AsyncClient, **body: Any) -> tuple[int, str, str]:
    response = await client.post(FEEDBACK, json=body)
    error = response.json()["error"]
    return response.status_code, error["param"], error["message"]


async def exported(client: httpx.AsyncClient, **body: Any) -> list[dict[str, Any]]:
    file = (await client.post(f"{FEEDBACK}/export", json=body)).json()
    assert (file["purpose"], file["object"]) == ("fine-tune", "file"), file
    content = (await client.get(f"/v1/files/{file['id']}/content")).text
    return [json.loads(line) for line in content.splitlines()]


async def test_a_chat_completion_is_stored_where_the_request_says_so(
    client: httpx.AsyncClient, openai: AsyncOpenAI
) -> None:
    made = await openai.chat.completions.create(model="base", messages=QUESTION, store=True, metadata={"a": "b"})
    stored = await openai.chat.completions.retrieve(made.id)
    assert (stored.id, stored.choices[0].message.content) == (made.id, made.choices[0].message.content)
    assert stored.metadata == {"a": "b"}  # type: ignore[attr-defined]
    assert (await openai.chat.completions.delete(made.id)).deleted
    with pytest.raises(client_library.NotFoundError):
        await openai.chat.completions.retrieve(made.id)


@pytest.mark.parametrize("options", [{"store": False}, {"store": None}])
async def test_other_completions_are_not_stored(openai: AsyncOpenAI, options: dict[str, Any]) -> None:
    made = await answer(openai, **options)
    with pytest.raises(client_library.NotFoundError, match="without store: true"):
        await openai.chat.completions.retrieve(made)


async def test_a_streamed_completion_is_stored_whole(client: httpx.AsyncClient, openai: AsyncOpenAI) -> None:
    texts: list[str] = []
    async with await openai.chat.completions.create(model="base", messages=QUESTION, store=True, stream=True) as stream:
        async for chunk in stream:
            texts += [choice.delta.content or "" for choice in chunk.choices]
    stored = await openai.chat.completions.retrieve(chunk.id)
    assert (stored.object, stored.choices[0].message.content) == ("chat.completion", "".join(texts))


@on_both_databases
async def test_feedback_is_given_shown_listed_and_deleted(client: httpx.AsyncClient, openai: AsyncOpenAI) -> None:
    made = await answer(openai)
    rated = await give(client, answer=made, rating="up", comment="good", metadata={"user": "7"})
    assert (rated["kind"], rated["rating"], rated["correction"]) == ("rating", "up", None)
    assert (rated["prompt"], rated["comment"], rated["metadata"]) == (QUESTION, "good", {"user": "7"})
    ((rated_answer),) = rated["answers"]
    assert (rated_answer["id"], rated_answer["choice"], rated_answer["model"]) == (made, 0, "base")
    corrected = await give(client, answer=made, correction="I am a model.")
    assert corrected["correction"] == {"role": "assistant", "content": "I am a model."}
    assert (await client.get(f"{FEEDBACK}/{rated['id']}")).json() == rated
    assert (await client.get(FEEDBACK)).json()["data"] == [corrected, rated]
    assert (await client.get(FEEDBACK, params={"after": corrected["id"]})).json()["data"] == [rated]
    assert (await client.delete(f"{FEEDBACK}/{rated['id']}")).json()["deleted"]
    for method in ("GET", "DELETE"):
        gone = await client.request(method, f"{FEEDBACK}/{rated['id']}")
        assert (gone.status_code, gone.json()["error"]["code"]) == (404, "feedback_not_found")


async def test_answers_are_compared_and_become_training_files(
    opened: Opened, client: httpx.AsyncClient, openai: AsyncOpenAI
) -> None:
    await opened.publish_cold("sql")
    first, second, third = [await answer(openai, model) for model in ("sql", "base", "sql")]
    await give(client, preferred=first, rejected=second)
    await give(client, ranking=[third, {"id": second}])
    text = {"sql": "", "base": ""}
    (pair, other) = await exported(client, **{"as": "dpo"})
    assert pair["input"]["messages"] == QUESTION
    assert pair["preferred_output"] != pair["non_preferred_output"]
    assert other == pair
    assert len(await exported(client, **{"as": "ranking", "adapter": "sql"})) == 2
    assert [row["label"] for row in await exported(client, **{"as": "kto"})] == [True, False] * 2
    assert len(text) == 2
    for body in ({"as": "dpo", "adapter": "json"}, {"as": "dpo", "since": 4_000_000_000}):
        empty = await client.post(f"{FEEDBACK}/export", json=body)
        assert (empty.status_code, empty.json()["error"]["param"]) == (400, "as")


async def test_feedback_outlives_the_answer(client: httpx.AsyncClient, openai: AsyncOpenAI) -> None:
    made = await answer(openai)
    await give(client, answer=made, rating="up")
    await openai.chat.completions.delete(made)
    assert len(await exported(client, **{"as": "supervised"})) == 1


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"answer": "a"},
        {"rating": "up"},
        {"answer": "a", "rating": "up", "correction": "b"},
        {"preferred": "a"},
        {"preferred": "a", "rejected": "b", "rating": "up"},
        {"ranking": ["a"]},
        {"ranking": ["a"] * 17},
        {"answer": "a", "rating": "good"},
        {"answer": "a", "rating": "up", "stars": 5},
        {"answer": "a", "rating": "up", "comment": "x" * 4097},
    ],
)
async def test_a_malformed_body_is_refused(client: httpx.AsyncClient, body: dict[str, Any]) -> None:
    assert (await refused(client, **body))[0] == 400


async def test_what_cannot_be_compared_is_refused(client: httpx.AsyncClient, openai: AsyncOpenAI) -> None:
    made = await answer(openai)
    other = await openai.chat.completions.create(
        model="base", messages=[{"role": "user", "content": "Other?"}], store=True
    )
    assert await refused(client, preferred=made, rejected=made) == (
        400,
        "rejected",
        "rejected: this answer is named twice",
    )
    status, param, reason = await refused(client, ranking=[made, other.id])
    assert (status, param) == (400, "ranking.1")
    assert "another prompt" in reason
    assert (await refused(client, answer={"id": made, "choice": 1}, rating="up"))[:2] == (400, "answer.choice")
    status, _, reason = await refused(client, answer="chatcmpl-none", rating="up")
    assert status == 404
    assert "store: true" in reason


async def test_nothing_is_kept_where_storing_is_off(opening: Opening, official: Official) -> None:
    async with opening(max_responses=0) as opened, official(opened) as openai:
        made = await answer(openai)
        status, _, reason = await refused(opened.client, answer=made, rating="up")
        assert (status, "--max-responses 0" in reason) == (404, True)


async def test_a_project_sees_its_own_answers_and_feedback_alone(opening: Opening, official: Official) -> None:
    async with opening(allow_anonymous=True) as opened:
        keys = opened.state.keys
        _, ours = await keys.create("a", [Scope.INFER, Scope.FILES], project="acme")
        _, theirs = await keys.create("b", [Scope.INFER, Scope.FILES], project="globex")
        async with official(opened) as openai:
            made = await answer(openai.with_options(api_key=ours))
            other = await answer(openai.with_options(api_key=theirs))
        opened.client.headers["authorization"] = f"Bearer {ours}"
        stored = await give(opened.client, answer=made, rating="up")
        assert (await refused(opened.client, answer=other, rating="up"))[0] == 404
        opened.client.headers["authorization"] = f"Bearer {theirs}"
        for method in ("GET", "DELETE"):
            assert (await opened.client.request(method, f"{FEEDBACK}/{stored['id']}")).status_code == 404
            assert (await opened.client.request(method, f"/v1/chat/completions/{made}")).status_code == 404
        assert (await opened.client.get(FEEDBACK)).json()["data"] == []
        assert (await opened.client.post(f"{FEEDBACK}/export", json={"as": "kto"})).status_code == 400


async def test_feedback_counts_as_stored_bytes(opening: Opening, official: Official) -> None:
    async with opening(project_limits=("stored_bytes=600",)) as opened, official(opened) as openai:
        made = await answer(openai)
        await give(opened.client, answer=made, rating="up")
        status, _, reason = await refused(opened.client, answer=made, rating="up")
        assert (status, "stored_bytes" in reason) == (429, True)


async def test_the_oldest_feedback_beyond_the_limit_goes(opening: Opening, official: Official) -> None:
    async with opening(max_responses=2) as opened, official(opened) as openai:
        made = await answer(openai)
        stored = [(await give(opened.client, answer=made, rating="up"))["id"] for _ in range(3)]
        assert [each["id"] for each in (await opened.client.get(FEEDBACK)).json()["data"]] == [stored[2], stored[1]]
        assert await opened.state.records.feedback.sweep(3600) == 0
        assert await opened.state.records.feedback.sweep(0) == 2
