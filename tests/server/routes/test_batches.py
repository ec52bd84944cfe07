"""Batches by OpenAI's own client, on the fake engine: results, faults, cancellation, expiry, keys, restarts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import httpx
import openai as client_library
import pytest
from openai import AsyncOpenAI
from openai.types import Batch
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncConnection

from server.access.scope import Scope
from server.batches.batch import BatchDraft
from server.batches.deferred_runner import LEASE_S
from server.batches.schema import batches
from server.engine.fake import FakeBuilder, Knobs
from tests.postgres import on_both_databases
from tests.server.opened import BASE, Listening, Opened, Opening
from tests.server.routes.conftest import Official
from tests.until import Until
from trainer.clock import Clock

CHAT = "/v1/chat/completions"

Row = dict[str, Any]
Submit = Callable[..., Awaitable[Batch]]


def line(number: int, model: str = "base", **body: Any) -> Row:
    messages = [{"role": "user", "content": f"say {number}"}]
    return {
        "custom_id": f"line-{number}",
        "method": "POST",
        "url": CHAT,
        "body": {"model": model, "messages": messages, **body},
    }


def jsonl(rows: Iterable[Any]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


async def submitted(openai: AsyncOpenAI, content: bytes, **fields: Any) -> Batch:
    file = await openai.files.create(file=("requests.jsonl", content), purpose="batch")
    return await openai.batches.create(
        **{"input_file_id": file.id, "endpoint": CHAT, "completion_window": "24h", **fields}
    )


async def ended(openai: AsyncOpenAI, batch_id: str, until: Until) -> Batch:
    async def has_ended() -> Batch | None:
        batch = await openai.batches.retrieve(batch_id)
        return batch if batch.status in {"completed", "failed", "expired", "cancelled"} else None

    found: Batch = await until(has_ended, within_s=300, every_s=0.2)
    return found


async def rows_of(openai: AsyncOpenAI, file_id: str | None) -> list[Row]:
    if file_id is None:
        return []
    return [json.loads(text) for text in (await openai.files.content(file_id)).text.splitlines()]


async def test_every_line_is_answered_by_the_model_it_names(opened: Opened, openai: AsyncOpenAI, until: Until) -> None:
    await opened.publish("sql")
    await opened.publish("poet", 2)
    models = ["base", "sql", "poet"]
    content = jsonl(line(number, models[number % 3]) for number in range(30))
    batch = await submitted(openai, content, metadata={"run": "7"})
    assert (batch.status, batch.object, batch.endpoint, batch.metadata) == ("validating", "batch", CHAT, {"run": "7"})
    assert batch.id.startswith("batch_")
    assert batch.expires_at == batch.created_at + 24 * 3600
    done = await ended(openai, batch.id, until)
    assert (done.status, done.errors, done.error_file_id, done.model) == ("completed", None, None, None)
    assert done.request_counts is not None
    assert done.request_counts.to_dict() == {"total": 30, "completed": 30, "failed": 0}
    assert done.in_progress_at is not None
    assert done.completed_at is not None
    assert done.output_file_id is not None
    rows = await rows_of(openai, done.output_file_id)
    assert [row["custom_id"] for row in rows] == [f"line-{number}" for number in range(30)]
    for number, row in enumerate(rows):
        assert row["id"].startswith("batch_req_")
        assert (row["error"], row["response"]["status_code"]) == (None, 200)
        assert row["response"]["request_id"]
        text = row["response"]["body"]["choices"][0]["message"]["content"]
        assert text.partition("@")[0] == models[number % 3]
    file = await openai.files.retrieve(done.output_file_id)
    assert (file.purpose, file.filename) == ("batch_output", f"{batch.id}_output.jsonl")
    assert list((opened.state.settings.data_dir / "batches").glob("*")) == []


async def test_the_input_file_may_be_deleted_at_once(openai: AsyncOpenAI, until: Until) -> None:
    batch = await submitted(openai, jsonl([line(1)]))
    await openai.files.delete(batch.input_file_id)
    assert (await ended(openai, batch.id, until)).status == "completed"


async def test_blank_lines_and_a_byte_order_mark_are_skipped(openai: AsyncOpenAI, until: Until) -> None:
    content = b"\xef\xbb\xbf" + jsonl([line(1)]).replace(b"\n", b"\r\n\r\n") + b"  \n" + jsonl([line(2)]).strip()
    done = await ended(openai, (await submitted(openai, content)).id, until)
    assert done.request_counts is not None
    assert (done.status, done.request_counts.total, done.model) == ("completed", 2, "base")


async def test_a_line_that_is_answered_with_an_error_goes_to_the_error_file(
    opened: Opened, openai: AsyncOpenAI, until: Until
) -> None:
    await opened.publish("sql")
    opened.builder.knobs.effect = float("nan")  # the adapter computes NaN
    done = await ended(openai, (await submitted(openai, jsonl([line(0), line(1, "sql"), line(2)]))).id, until)
    assert (done.status, len(await rows_of(openai, done.output_file_id))) == ("completed", 2)
    (failed,) = await rows_of(openai, done.error_file_id)
    assert (failed["custom_id"], failed["response"]["status_code"]) == ("line-1", 424)
    assert failed["response"]["body"]["error"]["code"] == "adapter_quarantined"
    assert done.request_counts is not None
    assert done.request_counts.to_dict() == {"total": 3, "completed": 2, "failed": 1}


FAULTY: list[tuple[str, Any, str | None]] = [
    ("invalid_json_line", b"{", None),
    ("invalid_json_line", b"[1]", None),
    ("invalid_json_line", b"\xff", None),
    ("invalid_json_line", b"[" * 100_000, None),
    ("invalid_custom_id", {**line(1), "custom_id": None}, "custom_id"),
    ("invalid_custom_id", {**line(1), "custom_id": ""}, "custom_id"),
    ("invalid_custom_id", {**line(1), "custom_id": 7}, "custom_id"),
    ("duplicate_custom_id", line(0), "custom_id"),
    ("invalid_method", {**line(1), "method": "GET"}, "method"),
    ("invalid_url", {**line(1), "url": "/v1/completions"}, "url"),
    ("invalid_url", {**line(1), "url": "/v1/adapters"}, "url"),
    ("invalid_body", {**line(1), "body": "text"}, "body"),
    ("missing_required_parameter", {**line(1), "body": {"messages": []}}, "body.model"),
    ("model_not_found", line(1, "nothing"), "body.model"),
    ("unsupported_parameter", line(1, stream=True), "body.stream"),
]


@pytest.mark.parametrize(("code", "row", "param"), FAULTY)
async def test_a_file_with_a_fault_is_refused_as_a_whole(
    openai: AsyncOpenAI, until: Until, code: str, row: Any, param: str | None
) -> None:
    bad = row + b"\n" if isinstance(row, bytes) else jsonl([row])
    done = await ended(openai, (await submitted(openai, jsonl([line(0)]) + bad)).id, until)
    assert (done.status, done.output_file_id, done.error_file_id) == ("failed", None, None)
    assert done.errors is not None
    assert done.errors.data is not None
    (fault,) = done.errors.data
    assert (fault.code, fault.line, fault.param) == (code, 2, param)
    assert fault.message


async def test_all_faults_are_listed_and_their_number_is_bounded(openai: AsyncOpenAI, until: Until) -> None:
    done = await ended(openai, (await submitted(openai, jsonl([{}] * 300))).id, until)
    assert done.errors is not None
    assert done.errors.data is not None
    assert len(done.errors.data) == 201
    assert done.errors.data[-1].message == f"{300 * 4 - 200} more faults are not listed"


@pytest.mark.parametrize(
    ("content", "fields", "code"),
    [
        (b"", {}, "empty_file"),
        (b"\n\n", {}, "empty_file"),
        (jsonl({**line(0), "url": "/v1/embeddings"} for _ in range(1)), {"endpoint": "/v1/embeddings"}, None),
    ],
)
async def test_a_file_without_lines_or_for_a_route_that_the_base_lacks_fails(
    openai: AsyncOpenAI, until: Until, content: bytes, fields: Row, code: str | None
) -> None:
    done = await ended(openai, (await submitted(openai, content, **fields)).id, until)
    assert done.errors is not None
    assert done.errors.data is not None
    assert (done.status, done.errors.data[0].code) == ("failed", code or "unsupported_endpoint")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"endpoint": "/v1/adapters"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"input_file_id": "file-none"}, "input_file_id"),
        ({"metadata": {"k": "v" * 513}}, "metadata.k"),
        ({"metadata": {str(number): "" for number in range(17)}}, "metadata"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 5}}, "output_expires_after.seconds"),
        ({"input_file_ids": ["x"]}, "input_file_ids"),
    ],
)
async def test_a_request_that_is_not_in_order_is_refused(client: httpx.AsyncClient, fields: Row, param: str) -> None:
    form = {"purpose": (None, "batch"), "file": ("a", jsonl([line(0)]))}
    file_id = (await client.post("/v1/files", files=form)).json()["id"]
    body = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h", **fields}
    response = await client.post("/v1/batches", json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
    assert (await client.get("/v1/batches")).json()["data"] == []


async def test_a_file_of_another_purpose_is_no_input(openai: AsyncOpenAI, upload: Callable[..., Any]) -> None:
    with pytest.raises(client_library.BadRequestError, match="purpose 'batch'"):
        await openai.batches.create(input_file_id=await upload(), endpoint=CHAT, completion_window="24h")


async def test_an_unknown_batch_is_not_found(openai: AsyncOpenAI) -> None:
    for call in (openai.batches.retrieve, openai.batches.cancel):
        with pytest.raises(client_library.NotFoundError) as gone:
            await call("batch_none")
        assert gone.value.code == "batch_not_found"


@on_both_databases
async def test_batches_are_listed_newest_first_in_pages(openai: AsyncOpenAI) -> None:
    ids = [(await submitted(openai, jsonl([line(0)]))).id for _ in range(5)]
    assert [batch.id async for batch in openai.batches.list(limit=2)] == ids[::-1]


@on_both_databases
async def test_a_cancelled_batch_keeps_its_finished_lines(opening: Opening, official: Official, until: Until) -> None:
    async with opening(builder=FakeBuilder(BASE, knobs=Knobs(token_s=0.005))) as opened, official(opened) as openai:
        rows = [line(number, max_tokens=1 if number < 20 else 100_000) for number in range(200)]
        batch = await submitted(openai, jsonl(rows))

        async def has_results() -> bool:
            counts = (await openai.batches.retrieve(batch.id)).request_counts
            return counts is not None and counts.completed >= 20

        await until(has_results)
        assert (await openai.batches.cancel(batch.id)).status == "cancelling"
        done = await ended(openai, batch.id, until)
        assert (done.status, done.cancelling_at is None, done.cancelled_at is None) == ("cancelled", False, False)
        output, errors = await rows_of(openai, done.output_file_id), await rows_of(openai, done.error_file_id)
        assert [row["custom_id"] for row in output] == [row["custom_id"] for row in rows[:20]]
        assert {(row["error"]["code"], row["response"]) for row in errors} == {("batch_cancelled", None)}
        assert len(errors) == 180
        with pytest.raises(client_library.BadRequestError, match="which does not allow cancel"):
            await openai.batches.cancel(batch.id)
        assert await opened.answer("base") == "base"


async def test_a_batch_ends_when_its_time_is_over(opening: Opening, official: Official, until: Until) -> None:
    async with opening(builder=FakeBuilder(BASE, knobs=Knobs(token_s=0.005))) as opened, official(opened) as openai:
        rows = [line(number, max_tokens=1 if number < 3 else 100_000) for number in range(10)]
        batch = await submitted(openai, jsonl(rows))
        await until(lambda: has_completed(openai, batch.id, 3))
        async with opened.state.batches.database.write() as connection:
            past = datetime.fromisoformat("2020-01-01T00:00:00+00:00")
            await connection.execute(update(batches).values(expires_at=past))
        done = await ended(openai, batch.id, until)
        assert (done.status, done.expired_at is None) == ("expired", False)
        assert len(await rows_of(openai, done.output_file_id)) == 3
        assert {row["error"]["code"] for row in await rows_of(openai, done.error_file_id)} == {"batch_expired"}


async def has_completed(openai: AsyncOpenAI, batch_id: str, count: int) -> bool:
    counts = (await openai.batches.retrieve(batch_id)).request_counts
    return counts is not None and counts.completed >= count


async def test_a_batch_goes_on_after_a_restart_and_answers_each_line_once(
    opening: Opening, official: Official, until: Until
) -> None:
    rows = [line(number, max_tokens=1 if number < 100 else 10_000) for number in range(150)]
    knobs = Knobs(token_s=0.001)
    async with opening(builder=FakeBuilder(BASE, knobs=knobs)) as opened, official(opened) as openai:
        batch = await submitted(openai, jsonl(rows))
        await until(lambda: has_completed(openai, batch.id, 100))
    async with opening() as reopened, official(reopened) as openai:
        assert (await openai.batches.retrieve(batch.id)).status == "in_progress"
        done = await ended(openai, batch.id, until)
        assert done.request_counts is not None
        assert (done.status, done.request_counts.completed) == ("completed", 150)
        output = await rows_of(openai, done.output_file_id)
        assert [row["custom_id"] for row in output] == [row["custom_id"] for row in rows]


async def test_ten_thousand_lines_are_answered(openai: AsyncOpenAI, until: Until) -> None:
    done = await ended(openai, (await submitted(openai, jsonl(line(number) for number in range(10_000)))).id, until)
    assert done.request_counts is not None
    assert (done.status, done.request_counts.completed) == ("completed", 10_000)
    output = await rows_of(openai, done.output_file_id)
    assert [row["custom_id"] for row in output] == [f"line-{number}" for number in range(10_000)]


async def test_a_batch_survives_the_death_of_the_engine(opened: Opened, openai: AsyncOpenAI, until: Until) -> None:
    opened.builder.knobs.token_s = 0.02
    batch = await submitted(openai, jsonl(line(number, max_tokens=5) for number in range(200)))
    await until(lambda: has_completed(openai, batch.id, 64))
    opened.engine.die()
    done = await ended(openai, batch.id, until)
    assert done.request_counts is not None
    assert done.request_counts.to_dict() == {"total": 200, "completed": 200, "failed": 0}


@on_both_databases
async def test_two_servers_on_one_database_answer_each_line_once(
    opening: Opening, official: Official, until: Until
) -> None:
    async with opening() as one, opening() as two, official(one) as openai, official(two) as other:
        ids = [(await submitted(openai, jsonl(line(number) for number in range(50)))).id for _ in range(6)]
        for batch_id in ids:
            done = await ended(other, batch_id, until)
            assert (done.status, len(await rows_of(other, done.output_file_id))) == ("completed", 50)


async def test_a_batch_names_an_adapter_that_another_server_has_just_published(
    opening: Opening, official: Official, until: Until
) -> None:
    async with (
        opening(follow_interval_s=3600.0) as one,
        opening(follow_interval_s=3600.0) as two,
        official(two) as other,
    ):
        await one.publish("sql")
        batch = await submitted(other, jsonl([line(0, "sql")]))
        assert (await ended(other, batch.id, until)).status == "completed"


async def test_a_line_of_a_batch_has_the_window_of_its_batch_and_no_other_deadline(
    opening: Opening, official: Official, until: Until
) -> None:
    slow = FakeBuilder(BASE, knobs=Knobs(token_s=0.01))
    async with opening(builder=slow, request_timeout_s=0.2) as opened, official(opened) as openai:
        assert (await opened.chat("base", max_tokens=100)).status_code == 504
        batch = await submitted(openai, jsonl([line(0, max_tokens=100)]))
        done = await ended(openai, batch.id, until)
        assert done.request_counts is not None
        assert done.request_counts.completed == 1


@on_both_databases
async def test_the_batch_of_a_process_that_died_is_taken_by_another(
    opening: Opening, official: Official, until: Until
) -> None:
    async with opening() as opened, official(opened) as openai:
        store = opened.state.batches
        file = await openai.files.create(file=("a", jsonl([line(0)])), purpose="batch")
        dead = replace(store, clock=earlier(store.clock, 2 * LEASE_S))
        batch = await dead.create(BatchDraft(CHAT, file.id))
        await dead.take("another process", LEASE_S)
        assert (await ended(openai, batch.id, until)).status == "completed"


def earlier(clock: Clock, seconds: float) -> Clock:
    async def moved(connection: AsyncConnection) -> datetime:
        return await clock(connection) - timedelta(seconds=seconds)

    return moved


async def test_a_batch_acts_with_its_creator_s_key_and_stops_when_the_key_is_revoked(
    opening: Opening, listening: Listening, until: Until
) -> None:
    async with opening(builder=FakeBuilder(BASE, knobs=Knobs(token_s=0.01))) as opened:
        key, secret = await opened.state.keys.create("ours", [Scope.ADMIN])
        _, watcher = await opened.state.keys.create("theirs", [Scope.ADMIN])
        async with (
            listening(opened.app) as url,
            AsyncOpenAI(base_url=f"{url}/v1", api_key=secret, max_retries=0) as openai,
            AsyncOpenAI(base_url=f"{url}/v1", api_key=watcher, max_retries=0) as other,
        ):
            short = await submitted(openai, jsonl([line(0)]))
            assert (await ended(openai, short.id, until)).status == "completed"
            batch = await submitted(openai, jsonl(line(number, max_tokens=20) for number in range(2_000)))
            await until(lambda: has_completed(openai, batch.id, 10))
            await opened.state.keys.revoke(key.id)
            done = await ended(other, batch.id, until)
            assert done.errors is not None
            assert done.errors.data is not None
            assert (done.status, done.errors.data[0].code) == ("cancelled", "key_revoked")
            assert len(await rows_of(other, done.output_file_id)) >= 10


async def test_batches_need_the_admin_scope_as_files_do(opened: Opened) -> None:
    _, secret = await opened.state.keys.create("caller", [Scope.INFER])
    headers = {"authorization": f"Bearer {secret}"}
    assert (await opened.client.get("/v1/batches", headers=headers)).status_code == 403


async def test_a_live_request_does_not_wait_behind_a_batch(opening: Opening, official: Official, until: Until) -> None:
    """All lines are endless: what is answered meanwhile has not waited for any of them."""
    async with opening(builder=FakeBuilder(BASE, knobs=Knobs(token_s=0.01))) as opened, official(opened) as openai:
        for seed, name in enumerate(("a", "b", "c", "d", "e", "f", "live")):
            await opened.publish(name, seed)
        rows = [line(number, "abcdef"[number % 6], max_tokens=10**9) for number in range(1_000)]
        batch = await submitted(openai, jsonl(rows))
        await until(lambda: opened.state.engine.serving().scheduler.active > 0)
        await asyncio.sleep(0.2)
        answers = await asyncio.gather(*(opened.answer(name) for name in ("base", "live") for _ in range(40)))
        assert {answer.partition("@")[0] for answer in answers} == {"base", "live"}
        await openai.batches.cancel(batch.id)
        assert (await ended(openai, batch.id, until)).status == "cancelled"
