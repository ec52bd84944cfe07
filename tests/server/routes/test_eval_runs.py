"""Runs of evals: created in order or refused, cancelled, deleted, resumed; for whom they ask, and what they cost."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import httpx
import openai as client_library
import pytest
from openai import AsyncOpenAI
from openai.types.evals import RunRetrieveResponse

from server.access.scope import Scope
from server.batches.deferred_runner import LEASE_S
from server.engine.fake import FakeBuilder, Knobs
from tests.postgres import on_both_databases
from tests.server.opened import BASE, Listening, Opened, Opening
from tests.server.routes.conftest import Official
from tests.server.routes.eval_requests import (
    CONFIG,
    EXACT,
    TEMPLATE,
    Json,
    answered,
    asked,
    begun,
    content,
    ended,
    has_executed,
    made,
    outputs,
    ran,
)
from tests.until import Until
from trainer.clock import Clock
from trainer.evals.objects import EvalRunDraft, SourceItem
from trainer.evals.run_queue import MAX_RUN_S
from trainer.evals.source_items import MAX_ITEMS


async def test_all_items_are_asked_of_the_version_that_the_reference_meant_at_first(
    opening: Opening, official: Official, until: Until
) -> None:
    async with begun(opening, official, until, ["sql@1"] * 200) as run:
        await run.opened.publish("sql", 2)
        await run.opened.client.post("/v1/adapters/sql/promote", json={"version": 2})
        assert (await run.opened.answer("sql")) == "sql@2"
        done = await ended(run.openai, run.eval_id, run.id, until)
        assert (done.status, done.result_counts.passed) == ("completed", 200)


@on_both_databases
async def test_runs_are_listed_by_their_status_and_deleted(openai: AsyncOpenAI, until: Until) -> None:
    eval_id = await made(openai)
    ids = [(await ran(openai, eval_id, answered(("a", "a")), until)).id for _ in range(3)]
    assert [run.id async for run in openai.evals.runs.list(eval_id, limit=2)] == ids
    assert [run.id async for run in openai.evals.runs.list(eval_id, order="desc", status="completed")] == ids[::-1]
    assert [run.id async for run in openai.evals.runs.list(eval_id, status="failed")] == []
    with pytest.raises(client_library.BadRequestError, match="does not allow cancel"):
        await openai.evals.runs.cancel(ids[0], eval_id=eval_id)
    deleted = await openai.evals.runs.delete(ids[0], eval_id=eval_id)
    assert deleted.to_dict() == {"object": "eval.run.deleted", "run_id": ids[0], "deleted": True}
    with pytest.raises(client_library.NotFoundError):
        await openai.evals.runs.delete(ids[0], eval_id=eval_id)


ROW: Json = {"item": {"reference": "a"}, "sample": {"output_text": "a"}}
REFUSED_RUNS: list[tuple[Json, str, str]] = [
    ({"type": "responses", "source": content(ROW)}, "data_source.type", "'completions'"),
    (asked("base", ["a"], source={"type": "stored_completions"}), "data_source.source.type", "file_id"),
    (asked("base", ["a"], sampling_params={"tools": [{}]}), "data_source.sampling_params.tools", "response_format"),
    (asked("base", ["a"], sampling_params={"temperature": 3}), "data_source.sampling_params.temperature", "2"),
    (asked("base", []), "data_source.source.content", "at least 1"),
    ({**asked("base", ["a"]), "model": ""}, "data_source.model", "at least 1"),
    (
        asked("base", ["a"], input_messages={"type": "item_reference", "item_reference": "sample.x"}),
        "data_source.input_messages.item_reference",
        "item.messages",
    ),
    (
        asked("base", ["a"], input_messages={"type": "item_reference", "item_reference": "item.reference"}),
        "data_source.source.content.0",
        "list of messages",
    ),
    (
        asked("base", ["a"], input_messages={**TEMPLATE, "template": [{"role": "user", "content": "{{item.b}}"}]}),
        "data_source.source.content.0",
        "no item.b",
    ),
    (asked("base", ["a"], source=content(ROW)), "data_source.source.content.0.sample", "'jsonl'"),
    ({"type": "jsonl", "source": {"type": "file_id", "id": "file-none"}}, "data_source.source.id", "'evals'"),
    ({"type": "jsonl", "source": content({"item": {}})}, "data_source.source.content.0.item", "required property"),
    (
        {"type": "jsonl", "source": content({"item": {"reference": "a"}})},
        "data_source.source.content.0.sample",
        "'completions'",
    ),
    (
        {"type": "jsonl", "source": content({"item": {"reference": "a"}, "sample": {"text": "a"}})},
        "data_source.source.content.0.sample",
        "output_text",
    ),
]


@pytest.mark.parametrize(("source", "param", "says"), REFUSED_RUNS)
async def test_a_run_that_is_not_in_order_is_refused(
    client: httpx.AsyncClient, source: Json, param: str, says: str
) -> None:
    body = {"data_source_config": CONFIG, "testing_criteria": [EXACT]}
    eval_id = (await client.post("/v1/evals", json=body)).json()["id"]
    response = await client.post(f"/v1/evals/{eval_id}/runs", json={"data_source": source})
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param), error
    assert says in error["message"]
    assert (await client.get(f"/v1/evals/{eval_id}/runs")).json()["data"] == []


@pytest.mark.parametrize(
    "grader",
    [
        {"type": "json_schema", "name": "shape", "schema": {"type": "object"}},
        {
            "type": "multi",
            "name": "m",
            "graders": {"a": {"type": "json_schema", "schema": {}}},
            "calculate_output": "a",
        },
    ],
)
async def test_items_without_answers_are_refused_where_a_grader_reads_answers_by_itself(
    openai: AsyncOpenAI, grader: Json
) -> None:
    source: Any = {"type": "jsonl", "source": content({"item": {"reference": "a"}})}
    with pytest.raises(client_library.BadRequestError, match=r"give sample\.output_text"):
        await openai.evals.runs.create(await made(openai, grader), data_source=source)


async def test_what_stands_in_a_request_is_bounded_with_its_answers_and_its_templates(openai: AsyncOpenAI) -> None:
    eval_id, long = await made(openai), "x" * 90_000
    template = {"type": "template", "template": [{"role": "user", "content": long}] * 12}
    sources: list[Any] = [answered(*[(long, "a")] * 12), asked("base", ["a"], input_messages=template)]
    for source in sources:
        with pytest.raises(client_library.BadRequestError, match="up to 1048576 bytes stand in a request"):
            await openai.evals.runs.create(eval_id, data_source=source)


async def upload_items(openai: AsyncOpenAI, *lines: str) -> Json:
    file = await openai.files.create(file=("items.jsonl", "\n".join(lines).encode()), purpose="evals")
    return {"type": "file_id", "id": file.id}


async def test_a_file_with_too_many_items_is_read_no_further(openai: AsyncOpenAI) -> None:
    source = await upload_items(openai, *['{"item":{"reference":"a"}}'] * (MAX_ITEMS + 1), "{")
    with pytest.raises(client_library.BadRequestError) as refused:
        await openai.evals.runs.create(await made(openai), data_source={"type": "jsonl", "source": source})  # type: ignore[arg-type,typeddict-item]
    assert "at most 50000 items" in refused.value.message
    assert f"line {MAX_ITEMS + 2}" not in refused.value.message


async def test_a_template_that_is_repeated_for_many_items_is_bounded_in_all(openai: AsyncOpenAI) -> None:
    lines = ['{"item":{"reference":"a"}}'] * 4_000
    template = {"type": "template", "template": [{"role": "user", "content": "x" * 90_000}]}
    source = asked("base", [], source=await upload_items(openai, *lines), input_messages=template)
    with pytest.raises(client_library.BadRequestError, match="over 268435456 bytes"):
        await openai.evals.runs.create(await made(openai), data_source=source)  # type: ignore[arg-type]


async def test_all_faults_of_a_file_are_named_by_line_and_their_number_is_bounded(openai: AsyncOpenAI) -> None:
    lines = ["{", "[1]", '{"item": 3}', '{"item": {}, "extra": 1}', '{"item": {"a": "\\u0000"}}', *["{}"] * 30]
    file = await openai.files.create(file=("a", "\n".join(lines).encode()), purpose="evals")
    source: Any = {"type": "jsonl", "source": {"type": "file_id", "id": file.id}}
    eval_id = await made(openai)
    with pytest.raises(client_library.BadRequestError) as refused:
        await openai.evals.runs.create(eval_id, data_source=source)
    message = refused.value.message
    assert all(f"line {number}: " in message for number in range(1, 21))
    assert "15 more faults are not listed" in message


async def test_a_model_that_does_not_exist_is_not_found(openai: AsyncOpenAI) -> None:
    eval_id = await made(openai)
    with pytest.raises(client_library.NotFoundError) as missing:
        await openai.evals.runs.create(eval_id, data_source=asked("nothing", ["a"]))  # type: ignore[arg-type]
    assert missing.value.param == "data_source.model"


@on_both_databases
async def test_a_cancelled_run_ends_at_once_and_keeps_its_results(
    opening: Opening, official: Official, until: Until
) -> None:
    async with begun(opening, official, until, ["sql@1"] * 5_000, executed=10) as run:
        runs = run.openai.evals.runs
        canceled = await runs.cancel(run.id, eval_id=run.eval_id)
        assert canceled.status == "canceled"
        older = await run.openai.post(f"/evals/{run.eval_id}/runs/{run.id}", cast_to=RunRetrieveResponse)
        assert (older.id, older.status) == (run.id, "canceled")
        await until(lambda: run.opened.state.engine.serving().scheduler.active == 0)
        done = await runs.retrieve(run.id, eval_id=run.eval_id)
        assert done.result_counts.total == canceled.result_counts.total
        assert len(await outputs(run.openai, done, limit=200)) == done.result_counts.total < 5_000


async def test_a_run_that_is_deleted_while_it_is_worked_on_ends(
    opening: Opening, official: Official, until: Until
) -> None:
    async with begun(opening, official, until, ["sql@1"] * 5_000) as run:
        await run.openai.evals.delete(run.eval_id)
        await until(lambda: run.opened.state.engine.serving().scheduler.active == 0)
        other = await made(run.openai)
        assert (await ran(run.openai, other, asked("base", ["base"]), until)).status == "completed"


async def test_a_run_goes_on_after_a_restart_and_asks_no_item_twice(
    opening: Opening, official: Official, until: Until
) -> None:
    async with begun(opening, official, until, ["sql@1"] * 3_000, executed=100) as run:
        pass
    async with opening() as reopened, official(reopened) as openai:
        before = await openai.evals.runs.retrieve(run.id, eval_id=run.eval_id)
        kept = {item.id: item for item in await outputs(openai, before, limit=200)}
        assert (before.status, len(kept) >= 100) == ("in_progress", True)
        done = await ended(openai, run.eval_id, run.id, until)
        assert (done.status, done.result_counts.passed) == ("completed", 3_000)
        assert done.per_model_usage[0].invocation_count == 3_000
        items = await outputs(openai, done, limit=200)
        assert [item.datasource_item_id for item in items] == list(range(3_000))
        assert {item.id: item for item in items if item.id in kept} == kept


async def test_a_run_survives_the_death_of_the_engine(opened: Opened, openai: AsyncOpenAI, until: Until) -> None:
    opened.builder.knobs.token_s = 0.05
    eval_id = await made(openai)
    run = await openai.evals.runs.create(eval_id, data_source=asked("base", ["base"] * 300))  # type: ignore[arg-type]
    await until(lambda: has_executed(openai, eval_id, run.id, 64))
    opened.engine.die()
    done = await ended(openai, eval_id, run.id, until)
    assert done.result_counts.to_dict() == {"total": 300, "passed": 300, "failed": 0, "errored": 0}


@on_both_databases
async def test_the_run_of_a_process_that_died_is_taken_by_another(
    opening: Opening, official: Official, until: Until
) -> None:
    async with opening() as opened, official(opened) as openai:
        records = opened.state.records
        of = await records.evals.get(await made(openai))
        draft, items = (
            EvalRunDraft("", answered(("a", "a")), ""),
            [SourceItem({"reference": "a"}, {"output_text": "a"})],
        )
        clock = earlier(records.eval_queue.clock, 2 * LEASE_S)
        dead = replace(records.eval_queue, clock=clock)
        run = await records.eval_runs.create(of, draft, items, 1)
        await dead.take("another process", LEASE_S)
        assert (await ended(openai, of.id, run.id, until)).result_counts.passed == 1


def earlier(clock: Clock, seconds: float) -> Clock:
    async def moved(connection: Any) -> datetime:
        return await clock(connection) - timedelta(seconds=seconds)

    return moved


@on_both_databases
async def test_two_servers_on_one_database_ask_each_item_once(
    opening: Opening, official: Official, until: Until
) -> None:
    async with opening() as one, opening() as two, official(one) as openai, official(two) as other:
        eval_id = await made(openai)
        runs = [
            await openai.evals.runs.create(eval_id, data_source=asked("base", ["base"] * 40))  # type: ignore[arg-type]
            for _ in range(6)
        ]
        for run in runs:
            done = await ended(other, eval_id, run.id, until)
            assert (done.status, done.per_model_usage[0].invocation_count) == ("completed", 40)


async def test_a_run_acts_with_its_creators_key_and_fails_when_the_key_is_revoked(
    opening: Opening, listening: Listening, until: Until
) -> None:
    async with opening(builder=FakeBuilder(BASE, knobs=Knobs(token_s=0.05))) as opened:
        keys = opened.state.keys
        key, secret = await keys.create("ours", [Scope.EVALS, Scope.INFER])
        _, watcher = await keys.create("theirs", [Scope.EVALS])
        async with (
            listening(opened.app) as url,
            AsyncOpenAI(base_url=f"{url}/v1", api_key=secret, max_retries=0) as openai,
            AsyncOpenAI(base_url=f"{url}/v1", api_key=watcher, max_retries=0) as other,
        ):
            eval_id = await made(openai)
            run = await openai.evals.runs.create(eval_id, data_source=asked("base", ["base"] * 5_000))  # type: ignore[arg-type]
            await until(lambda: has_executed(other, eval_id, run.id, 10))
            await keys.revoke(key.id)
            done = await ended(other, eval_id, run.id, until)
            assert (done.status, done.error.code) == ("failed", "key_revoked")
            assert done.result_counts.total >= 10
            with pytest.raises(client_library.PermissionDeniedError, match="scope 'infer'"):
                await other.evals.runs.create(eval_id, data_source=asked("base", ["base"]))  # type: ignore[arg-type]
            assert [run.status async for run in other.evals.runs.list(eval_id)] == ["failed"]


async def test_a_live_request_does_not_wait_behind_a_run(opening: Opening, official: Official, until: Until) -> None:
    """Each item takes seconds: what is answered meanwhile has not waited for all of them."""
    async with opening(builder=FakeBuilder(BASE, knobs=Knobs(token_s=5.0))) as opened, official(opened) as openai:
        await opened.publish("sql")
        eval_id = await made(openai)
        run = await openai.evals.runs.create(eval_id, data_source=asked("sql", ["sql@1"] * 1_000))  # type: ignore[arg-type]
        await until(lambda: opened.state.engine.serving().scheduler.active > 0)
        opened.builder.knobs.token_s = 0.0
        answers = await asyncio.gather(*(opened.answer("base") for _ in range(40)))
        assert set(answers) == {"base"}
        await openai.evals.runs.cancel(run.id, eval_id=eval_id)


@on_both_databases
async def test_a_run_that_is_not_finished_in_time_fails_with_the_results_it_has(
    opening: Opening, official: Official, until: Until
) -> None:
    async with opening() as opened, official(opened) as openai:
        records = opened.state.records
        of = await records.evals.get(await made(openai))
        past = replace(records.eval_runs, clock=earlier(records.eval_runs.clock, MAX_RUN_S))
        items = [SourceItem({"reference": "a"}, {"output_text": "a"})]
        run = await past.create(of, EvalRunDraft("", answered(("a", "a")), ""), items, 1)
        done = await ended(openai, of.id, run.id, until)
        assert (done.status, done.error.code) == ("failed", "run_expired")
        other = await ran(openai, of.id, answered(("a", "a")), until)
        assert other.status == "completed"


async def test_answers_count_against_what_a_project_may_store_too(
    openai: AsyncOpenAI, opened: Opened, until: Until
) -> None:
    eval_runs = opened.state.records.eval_runs
    source = asked("base", ["a"])
    run = await openai.evals.runs.create(await made(openai), data_source=source)  # type: ignore[arg-type]
    of_items = len(json.dumps(source["source"]["content"][0])) + len(json.dumps([{"role": "user", "content": "q0?"}]))
    await ended(openai, run.eval_id, run.id, until)
    assert await eval_runs.stored_bytes("default") > of_items + len('"base"')


async def test_items_count_against_what_a_project_may_store_until_their_run_is_deleted(
    opened: Opened, openai: AsyncOpenAI, until: Until
) -> None:
    eval_id, source = await made(openai), answered(("a", "a" * 1_000))
    await opened.limit("project", "default", stored_bytes=1_500)
    run = await ran(openai, eval_id, source, until)
    with pytest.raises(client_library.RateLimitError, match="delete versions, files or runs"):
        await openai.evals.runs.create(eval_id, data_source=source)  # type: ignore[arg-type]
    await openai.evals.runs.delete(run.id, eval_id=eval_id)
    assert (await ran(openai, eval_id, source, until)).status == "completed"


async def test_a_runs_requests_are_metered_as_those_of_the_project_and_its_writes_are_audited(
    opened: Opened, openai: AsyncOpenAI, until: Until
) -> None:
    await opened.publish("sql")
    run = await ran(openai, await made(openai), asked("sql", ["sql@1"] * 7), until)
    (row,) = (await opened.client.get("/v1/usage")).json()["data"]
    assert (row["adapter"], row["requests"]) == ("sql", 7)
    events = (await opened.client.get("/v1/audit")).json()["data"]
    actions = {event["action"]: event["result"] for event in events}
    assert actions["POST /v1/evals/{eval_id}/runs"] == run.id
    assert actions["POST /v1/evals"] == run.eval_id
