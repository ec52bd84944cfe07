"""Evals by OpenAI's own client, on the fake engine, which answers with the name of the version that serves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
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
from tests.until import Until
from trainer.clock import Clock
from trainer.evals.objects import EvalRunDraft, SourceItem

Json = dict[str, Any]

EXACT: Json = {
    "type": "string_check",
    "name": "exact",
    "input": "{{sample.output_text}}",
    "reference": "{{item.reference}}",
    "operation": "eq",
}
SCHEMA: Json = {
    "type": "object",
    "properties": {"question": {"type": "string"}, "reference": {"type": "string"}},
    "required": ["reference"],
}
CONFIG: Json = {"type": "custom", "item_schema": SCHEMA, "include_sample_schema": True}
TEMPLATE: Json = {"type": "template", "template": [{"role": "user", "content": "{{item.question}}?"}]}


def content(*rows: Json) -> Json:
    return {"type": "file_content", "content": list(rows)}


def asked(model: str, references: Sequence[str], **fields: Any) -> Json:
    rows = [{"item": {"question": f"q{n}", "reference": reference}} for n, reference in enumerate(references)]
    return {"type": "completions", "source": content(*rows), "model": model, "input_messages": TEMPLATE, **fields}


def answered(*pairs: tuple[str, str]) -> Json:
    rows = [{"item": {"reference": reference}, "sample": {"output_text": text}} for text, reference in pairs]
    return {"type": "jsonl", "source": content(*rows)}


async def made(openai: AsyncOpenAI, *criteria: Json, **fields: Any) -> str:
    body: Json = {"data_source_config": CONFIG, "testing_criteria": criteria or [EXACT], **fields}
    return (await openai.evals.create(**body)).id


async def ended(openai: AsyncOpenAI, eval_id: str, run_id: str, until: Until) -> RunRetrieveResponse:
    async def has_ended() -> RunRetrieveResponse | None:
        run = await openai.evals.runs.retrieve(run_id, eval_id=eval_id)
        return run if run.status in {"completed", "failed", "canceled"} else None

    found: RunRetrieveResponse = await until(has_ended, within_s=300, every_s=0.1)
    return found


async def ran(openai: AsyncOpenAI, eval_id: str, source: Json, until: Until, **fields: Any) -> RunRetrieveResponse:
    body: Json = {"data_source": source, **fields}
    run = await openai.evals.runs.create(eval_id, **body)
    return await ended(openai, eval_id, run.id, until)


async def outputs(openai: AsyncOpenAI, run: RunRetrieveResponse, **query: Any) -> list[Any]:
    return [item async for item in openai.evals.runs.output_items.list(run.id, eval_id=run.eval_id, **query)]


async def has_executed(openai: AsyncOpenAI, eval_id: str, run_id: str, count: int) -> bool:
    return (await openai.evals.runs.retrieve(run_id, eval_id=eval_id)).result_counts.total >= count


async def test_a_run_asks_the_model_about_each_item_and_grades_the_answers(
    opened: Opened, openai: AsyncOpenAI, until: Until
) -> None:
    await opened.publish("sql")
    eval_id = await made(openai, name="names", metadata={"team": "a"})
    run = await openai.evals.runs.create(
        eval_id,
        data_source=asked("sql", ["sql@1", "base", "sql@1"], sampling_params={"temperature": 0.5, "seed": 3}),  # type: ignore[arg-type]
        name="first",
        metadata={"k": "v"},
    )
    assert (run.object, run.status, run.name, run.metadata) == ("eval.run", "queued", "first", {"k": "v"})
    assert (run.eval_id, run.model, run.error) == (eval_id, "sql@1", None)
    done = await ended(openai, eval_id, run.id, until)
    assert done.status == "completed"
    assert done.result_counts.to_dict() == {"total": 3, "passed": 2, "failed": 1, "errored": 0}
    (criterion,) = done.per_testing_criteria_results
    assert criterion.to_dict() == {"testing_criteria": "exact", "passed": 2, "failed": 1}
    (usage,) = done.per_model_usage
    assert (usage.run_model_name, usage.invocation_count) == ("sql@1", 3)
    items = await outputs(openai, done)
    assert [(item.datasource_item_id, item.status, item.object) for item in items] == [
        (0, "pass", "eval.run.output_item"),
        (1, "fail", "eval.run.output_item"),
        (2, "pass", "eval.run.output_item"),
    ]
    first = items[0]
    assert first.datasource_item == {"question": "q0", "reference": "sql@1"}
    assert [message.to_dict() for message in first.sample.input] == [{"role": "user", "content": "q0?"}]
    assert [message.to_dict() for message in first.sample.output] == [{"role": "assistant", "content": "sql@1"}]
    assert (first.sample.model, first.sample.temperature, first.sample.seed) == ("sql@1", 0.5, 3)
    assert (first.sample.finish_reason, first.sample.error) == ("stop", None)
    (result,) = first.results
    assert (result.name, result.type, result.score, result.passed) == ("exact", "string_check", 1.0, True)
    alone = await openai.evals.runs.output_items.retrieve(first.id, eval_id=eval_id, run_id=run.id)
    assert alone.to_dict() == first.to_dict()


async def test_all_items_are_asked_of_the_version_that_the_reference_meant_at_first(
    opening: Opening, official: Official, until: Until
) -> None:
    async with opening(builder=FakeBuilder(BASE, knobs=Knobs(token_s=0.05))) as opened, official(opened) as openai:
        await opened.publish("sql")
        eval_id = await made(openai)
        run = await openai.evals.runs.create(eval_id, data_source=asked("sql", ["sql@1"] * 200))  # type: ignore[arg-type]
        await until(lambda: has_executed(openai, eval_id, run.id, 1))
        await opened.publish("sql", 2)
        await opened.client.post("/v1/adapters/sql/promote", json={"version": 2})
        assert (await opened.answer("sql")) == "sql@2"
        done = await ended(openai, eval_id, run.id, until)
        assert (done.status, done.result_counts.passed) == ("completed", 200)


async def test_answers_that_the_source_has_are_graded_without_a_model(openai: AsyncOpenAI, until: Until) -> None:
    done = await ran(openai, await made(openai), answered(("yes", "yes"), ("no", "yes")), until)
    assert (done.status, done.model, done.per_model_usage) == ("completed", "", [])
    assert (done.result_counts.passed, done.result_counts.failed) == (1, 1)
    passed, failed = await outputs(openai, done)
    assert [message.content for message in failed.sample.output] == ["no"]
    assert [each.id for each in await outputs(openai, done, status="pass")] == [passed.id]
    assert [each.id for each in await outputs(openai, done, status="fail")] == [failed.id]
    assert [each.id for each in await outputs(openai, done, order="desc", limit=1)] == [failed.id, passed.id]


async def test_an_answer_may_stand_as_the_choices_of_a_completion(openai: AsyncOpenAI, until: Until) -> None:
    sample = {"model": "other", "choices": [{"message": {"role": "assistant", "content": "yes"}}]}
    source = {"type": "jsonl", "source": content({"item": {"reference": "yes"}, "sample": sample})}
    done = await ran(openai, await made(openai), source, until)
    (item,) = await outputs(openai, done)
    assert (item.status, item.sample.model) == ("pass", "other")


async def test_items_that_need_no_answer_are_graded_as_they_are(openai: AsyncOpenAI, until: Until) -> None:
    same = {**EXACT, "input": "{{item.question}}"}
    source = {"type": "jsonl", "source": content({"item": {"question": "a", "reference": "a"}})}
    assert (await ran(openai, await made(openai, same), source, until)).result_counts.passed == 1


@pytest.mark.parametrize("purpose", ["evals", "user_data"])
async def test_items_come_from_a_file_that_may_be_deleted_at_once(
    openai: AsyncOpenAI, until: Until, purpose: Any
) -> None:
    rows = [{"item": {"question": "q", "reference": "base"}} for _ in range(300)]
    text = "\n\n".join(map(json.dumps, rows)).encode()
    file = await openai.files.create(file=("items.jsonl", text), purpose=purpose)
    source = {**asked("base", []), "source": {"type": "file_id", "id": file.id}}
    eval_id = await made(openai)
    run = await openai.evals.runs.create(eval_id, data_source=source)  # type: ignore[arg-type]
    await openai.files.delete(file.id)
    done = await ended(openai, eval_id, run.id, until)
    assert (done.status, done.result_counts.passed) == ("completed", 300)
    assert done.data_source.to_dict() == source


async def test_messages_may_stand_in_the_items(openai: AsyncOpenAI, until: Until) -> None:
    schema = {"type": "object", "properties": {"turns": {"type": "array"}, "reference": {"type": "string"}}}
    eval_id = await made(openai, data_source_config={"type": "custom", "item_schema": schema})
    item = {"turns": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}], "reference": "base"}
    reference = {"type": "item_reference", "item_reference": "item.turns"}
    source = {**asked("base", []), "source": content({"item": item}), "input_messages": reference}
    done = await ran(openai, eval_id, source, until)
    (output,) = await outputs(openai, done)
    assert [message.to_dict() for message in output.sample.input] == item["turns"]
    assert output.status == "pass"


async def test_several_criteria_all_have_to_pass(openai: AsyncOpenAI, until: Until) -> None:
    close = {
        "type": "text_similarity",
        "name": "close",
        "input": "{{sample.output_text}}",
        "reference": "{{item.reference}}",
        "evaluation_metric": "fuzzy_match",
        "pass_threshold": 0.7,
    }
    both = {"type": "multi", "name": "both", "graders": {"a": EXACT, "b": close}, "calculate_output": "0.5 * (a + b)"}
    done = await ran(
        openai, await made(openai, EXACT, close, both), answered(("abcd", "abcd"), ("abcx", "abcd")), until
    )
    assert (done.result_counts.passed, done.result_counts.failed) == (1, 1)
    assert [each.to_dict() for each in done.per_testing_criteria_results] == [
        {"testing_criteria": "exact", "passed": 1, "failed": 1},
        {"testing_criteria": "close", "passed": 2, "failed": 0},
        {"testing_criteria": "both", "passed": 1, "failed": 1},
    ]
    _, second = await outputs(openai, done)
    assert [round(result.score, 2) for result in second.results] == [0.0, 0.75, 0.38]
    assert second.results[2].to_dict()["sub_rewards"] == {"a": 0.0, "b": 0.75}


async def test_an_item_whose_grader_gets_no_score_is_an_error_and_its_tokens_count(
    openai: AsyncOpenAI, until: Until
) -> None:
    judge = {"type": "score_model", "name": "judge", "model": "base", "input": [{"role": "user", "content": "?"}]}
    done = await ran(openai, await made(openai, judge), answered(("a", "b")), until)
    assert done.result_counts.to_dict() == {"total": 1, "passed": 0, "failed": 0, "errored": 1}
    assert [(usage.run_model_name, usage.invocation_count) for usage in done.per_model_usage] == [("base", 1)]
    (item,) = await outputs(openai, done)
    assert item.status == "error"
    assert "no result" in item.results[0].to_dict()["errors"]["model_grader_parse_error"]


async def test_an_answer_that_is_no_json_fails_a_criterion_that_reads_json(openai: AsyncOpenAI, until: Until) -> None:
    reads_json = {**EXACT, "input": "{{sample.output_json.name}}"}
    done = await ran(openai, await made(openai, reads_json), answered(("text", "a"), ('{"name":"a"}', "a")), until)
    assert (done.result_counts.failed, done.result_counts.passed) == (1, 1)


async def test_an_item_that_the_engine_refuses_is_an_error_with_its_reason(
    opened: Opened, openai: AsyncOpenAI, until: Until
) -> None:
    await opened.publish("sql")
    opened.builder.knobs.effect = float("nan")  # the adapter computes NaN
    done = await ran(openai, await made(openai), asked("sql", ["x"]), until)
    assert (done.status, done.result_counts.errored) == ("completed", 1)
    (item,) = await outputs(openai, done)
    assert (item.status, item.results) == ("error", [])
    assert "NaN" in item.sample.error.message


@on_both_databases
async def test_evals_are_listed_changed_and_deleted_with_their_runs(openai: AsyncOpenAI, until: Until) -> None:
    ids = [await made(openai, name=f"e{number}") for number in range(5)]
    assert [each.id async for each in openai.evals.list(limit=2)] == ids
    assert [each.id async for each in openai.evals.list(limit=2, order="desc")] == ids[::-1]
    changed = await openai.evals.update(ids[1], name="renamed", metadata={"a": "b"})
    assert (changed.name, changed.metadata) == ("renamed", {"a": "b"})
    assert (await openai.evals.update(ids[1], metadata=None)).name == "renamed"
    found = await openai.evals.retrieve(ids[1])
    assert (found.metadata, found.object, found.to_dict()["testing_criteria"]) == (None, "eval", [EXACT])
    config = found.data_source_config.to_dict()
    assert (config["type"], config["schema"]["properties"]["item"]) == ("custom", SCHEMA)  # type: ignore[index]
    listed = [each.id async for each in openai.evals.list(limit=2, order="desc", order_by="updated_at")]
    assert listed == [ids[1], *(each for each in ids[::-1] if each != ids[1])]
    run = await ran(openai, ids[1], answered(("a", "a")), until)
    assert (await openai.evals.delete(ids[1])).to_dict() == {
        "object": "eval.deleted",
        "eval_id": ids[1],
        "deleted": True,
    }
    for call in (openai.evals.retrieve(ids[1]), openai.evals.runs.retrieve(run.id, eval_id=ids[1])):
        with pytest.raises(client_library.NotFoundError):
            await call


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


REFUSED_EVALS: list[tuple[Json, str, str]] = [
    ({"testing_criteria": []}, "testing_criteria", "1 to 32"),
    ({"testing_criteria": [{**EXACT, "operation": "same"}]}, "testing_criteria.0.operation", "'eq'"),
    ({"testing_criteria": [EXACT, {**EXACT, "name": ""}]}, "testing_criteria.1.name", "has a name"),
    ({"testing_criteria": [{**EXACT, "reference": "{{item.referense}}"}]}, "testing_criteria.0", "no property"),
    ({"testing_criteria": [{**EXACT, "input": "{{sample.output_text.__class__}"}]}, "testing_criteria.0.input", "}}"),
    ({"testing_criteria": [{**EXACT, "input": "{{config.secret}}"}]}, "testing_criteria.0.input", "item.key"),
    ({"data_source_config": {"type": "logs"}}, "data_source_config.type", "file_content"),
    ({"data_source_config": {"type": "stored_completions"}}, "data_source_config.type", "file_content"),
    ({"data_source_config": {"type": "custom"}}, "data_source_config.item_schema", "required"),
    (
        {"data_source_config": {**CONFIG, "item_schema": {"properties": {"a": {"pattern": "(a+)+$"}}}}},
        "data_source_config.item_schema",
        "'pattern' is not checked",
    ),
    (
        {"data_source_config": {**CONFIG, "item_schema": {"$ref": "http://169.254.169.254/"}}},
        "data_source_config.item_schema",
        "no part of this schema",
    ),
    ({"data_source_config": {**CONFIG, "item_schema": {"type": "thing"}}}, "data_source_config.item_schema", "thing"),
    ({"criteria": []}, "criteria", "Extra"),
]


@pytest.mark.parametrize(("fields", "param", "says"), REFUSED_EVALS)
async def test_an_eval_that_is_not_in_order_is_refused(
    client: httpx.AsyncClient, fields: Json, param: str, says: str
) -> None:
    body = {"data_source_config": CONFIG, "testing_criteria": [EXACT], **fields}
    response = await client.post("/v1/evals", json=body)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param), error
    assert says in error["message"]
    assert (await client.get("/v1/evals")).json()["data"] == []


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


async def test_values_of_items_are_not_read_as_templates(openai: AsyncOpenAI, until: Until) -> None:
    hostile = "{{sample.output_text}} {{item.reference}} {{item.__class__}}"
    source = asked("base", ["base"])
    source["source"]["content"][0]["item"]["question"] = hostile
    done = await ran(openai, await made(openai), source, until)
    (item,) = await outputs(openai, done)
    assert item.sample.input[0].content == f"{hostile}?"


async def test_a_template_that_grows_without_bound_is_the_error_of_its_item(openai: AsyncOpenAI) -> None:
    eval_id = await made(openai)
    source = asked("base", ["a"])
    source["source"]["content"][0]["item"]["question"] = "x" * 400_000
    source["input_messages"] = {"type": "template", "template": [{"role": "user", "content": "{{item.question}}" * 3}]}
    with pytest.raises(client_library.BadRequestError, match="longer than 1,000,000"):
        await openai.evals.runs.create(eval_id, data_source=source)  # type: ignore[arg-type]


@on_both_databases
async def test_a_cancelled_run_ends_at_once_and_keeps_its_results(
    opening: Opening, official: Official, until: Until
) -> None:
    async with opening(builder=FakeBuilder(BASE, knobs=Knobs(token_s=0.05))) as opened, official(opened) as openai:
        await opened.publish("sql")
        eval_id = await made(openai)
        run = await openai.evals.runs.create(eval_id, data_source=asked("sql", ["sql@1"] * 5_000))  # type: ignore[arg-type]
        await until(lambda: has_executed(openai, eval_id, run.id, 10))
        canceled = await openai.evals.runs.cancel(run.id, eval_id=eval_id)
        assert canceled.status == "canceled"
        older = await openai.post(f"/evals/{eval_id}/runs/{run.id}", cast_to=RunRetrieveResponse)
        assert (older.id, older.status) == (run.id, "canceled")
        await until(lambda: opened.state.engine.serving().scheduler.active == 0)
        done = await openai.evals.runs.retrieve(run.id, eval_id=eval_id)
        assert done.result_counts.total == canceled.result_counts.total
        assert len(await outputs(openai, done, limit=1000)) == done.result_counts.total < 5_000


async def test_a_run_that_is_deleted_while_it_is_worked_on_ends(
    opening: Opening, official: Official, until: Until
) -> None:
    async with opening(builder=FakeBuilder(BASE, knobs=Knobs(token_s=0.05))) as opened, official(opened) as openai:
        await opened.publish("sql")
        eval_id = await made(openai)
        run = await openai.evals.runs.create(eval_id, data_source=asked("sql", ["sql@1"] * 5_000))  # type: ignore[arg-type]
        await until(lambda: has_executed(openai, eval_id, run.id, 1))
        await openai.evals.delete(eval_id)
        await until(lambda: opened.state.engine.serving().scheduler.active == 0)
        other = await made(openai)
        assert (await ran(openai, other, asked("base", ["base"]), until)).status == "completed"


async def test_a_run_goes_on_after_a_restart_and_asks_no_item_twice(
    opening: Opening, official: Official, until: Until
) -> None:
    async with opening(builder=FakeBuilder(BASE, knobs=Knobs(token_s=0.05))) as opened, official(opened) as openai:
        eval_id = await made(openai)
        run = await openai.evals.runs.create(eval_id, data_source=asked("base", ["base"] * 3_000))  # type: ignore[arg-type]
        await until(lambda: has_executed(openai, eval_id, run.id, 100))
    async with opening() as reopened, official(reopened) as openai:
        before = await openai.evals.runs.retrieve(run.id, eval_id=eval_id)
        kept = {item.id: item for item in await outputs(openai, before, limit=1000)}
        assert (before.status, len(kept) >= 100) == ("in_progress", True)
        done = await ended(openai, eval_id, run.id, until)
        assert (done.status, done.result_counts.passed) == ("completed", 3_000)
        assert done.per_model_usage[0].invocation_count == 3_000
        items = await outputs(openai, done, limit=1000)
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
