"""The output items of runs: who answered, how the answer was graded, and what came of neither."""

from __future__ import annotations

import json
from typing import Any

import openai as client_library
import pytest
from openai import AsyncOpenAI

from tests.server.opened import Opened
from tests.server.routes.eval_requests import EXACT, answered, asked, content, ended, made, outputs, ran
from tests.until import Until


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
    (criterion,) = done.per_testing_criteria_results
    assert (criterion.passed, criterion.failed) == (0, 0)
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
