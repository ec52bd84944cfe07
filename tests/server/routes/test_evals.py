"""Evals by OpenAI's own client: listed, changed, deleted, and refused with all faults."""

from __future__ import annotations

import httpx
import openai as client_library
import pytest
from openai import AsyncOpenAI

from tests.postgres import on_both_databases
from tests.server.routes.eval_requests import CONFIG, EXACT, SCHEMA, Json, answered, made, ran
from tests.until import Until


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
