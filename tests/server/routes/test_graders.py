"""Graders by OpenAI's own client: tried and checked. The fake engine judges nothing; it shows who was asked."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import openai as client_library
import pytest
from openai import AsyncOpenAI
from openai.resources.fine_tuning.alpha import AsyncGraders
from openai.types.fine_tuning.alpha.grader_run_response import GraderRunResponse, MetadataErrors

from server.access.scope import Scope
from tests.server.opened import Listening, Opened, Opening
from tests.server.routes.conftest import Official
from tests.until import Until
from trainer.graders.python_processes import PythonUnavailable

Refused = Callable[[dict[str, Any]], Awaitable[tuple[int, dict[str, Any]]]]

GRADERS = "/v1/fine_tuning/alpha/graders"
CHECK = {
    "type": "string_check",
    "name": "city",
    "input": "{{sample.output_text}}",
    "reference": "{{item.city}}",
    "operation": "eq",
}
SIMILAR = {
    "type": "text_similarity",
    "name": "close",
    "input": "{{sample.output_text}}",
    "reference": "{{item.city}}",
    "evaluation_metric": "fuzzy_match",
}
SCORE: dict[str, Any] = {
    "type": "score_model",
    "name": "judge",
    "model": "base",
    "input": [{"role": "user", "content": "Score {{sample.output_text}}."}],
}
LABEL = {**SCORE, "type": "label_model", "labels": ["yes", "no"], "passing_labels": ["yes"]}
PYTHON = {
    "type": "python",
    "name": "code",
    "source": "def grade(sample, item): return sample['output_text'] == item['city']",
}
SCHEMA = {"type": "json_schema", "name": "shape", "schema": {"type": "object", "required": ["city"]}}
MULTI = {"type": "multi", "name": "both", "graders": {"a": CHECK, "b": SIMILAR}, "calculate_output": "0.5 * (a + b)"}


@pytest.fixture
def graders(openai: AsyncOpenAI) -> AsyncGraders:
    return openai.fine_tuning.alpha.graders


@pytest.fixture
def refused(client: httpx.AsyncClient) -> Refused:
    """Asks both routes for what may not be, and returns the error that both give."""

    async def refusal(grader: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        body = {"grader": grader, "model_sample": "Paris", "item": {"city": "Paris"}}
        tried = await client.post(f"{GRADERS}/run", json=body)
        checked = await client.post(f"{GRADERS}/validate", json={"grader": grader})
        assert (tried.status_code, tried.json()) == (checked.status_code, checked.json())
        return tried.status_code, tried.json()["error"]

    return refusal


def troubles(errors: MetadataErrors) -> set[str]:
    return {name for name, value in errors.to_dict().items() if value}


async def test_a_grade_has_openais_shape_and_all_its_fields(graders: AsyncGraders) -> None:
    graded = await graders.run(grader=CHECK, model_sample="Paris", item={"city": "Paris"})
    response = graded.to_dict()
    GraderRunResponse.model_validate(response)  # the client takes whatever comes; its types are the contract
    assert response["metadata"].pop("execution_time") >= 0
    errors = response["metadata"].pop("errors")
    assert errors.keys() == {field.alias or name for name, field in MetadataErrors.model_fields.items()}
    assert not any(errors.values())
    assert response == {
        "reward": 1.0,
        "sub_rewards": {},
        "metadata": {
            "name": "city",
            "type": "string_check",
            "scores": {},
            "sampled_model_name": None,
            "token_usage": None,
            "message": None,
        },
        "model_grader_token_usage_per_model": {},
    }


async def test_graders_are_combined(graders: AsyncGraders) -> None:
    graded = await graders.run(grader=MULTI, model_sample="Pari", item={"city": "Paris"})
    assert graded.sub_rewards == {"a": 0, "b": pytest.approx(8 / 9)}
    assert graded.reward == pytest.approx(4 / 9)


@pytest.mark.parametrize("grader", [CHECK, SIMILAR, SCORE, LABEL, SCHEMA, MULTI])
async def test_a_grader_that_would_do_is_returned_as_it_came(graders: AsyncGraders, grader: dict[str, Any]) -> None:
    assert (await graders.with_raw_response.validate(grader=grader)).http_response.json() == {"grader": grader}


@pytest.fixture
async def with_python(opening: Opening) -> AsyncIterator[Opened]:
    """A server that runs python graders; skips the test where this machine has no sandbox."""
    async with opening(python_graders=True, max_grader_s=60) as opened:
        try:
            opened.state.graders.python.check()
        except PythonUnavailable as none:
            pytest.skip(str(none))
        yield opened


async def test_code_of_the_caller_grades_where_the_operator_allows_it(with_python: Opened, official: Official) -> None:
    async with official(with_python) as openai:
        graders = openai.fine_tuning.alpha.graders
        assert (await graders.validate(grader=PYTHON)).grader.to_dict() == PYTHON
        for answer, reward in (("Paris", 1), ("Rome", 0)):
            graded = await graders.run(grader=PYTHON, model_sample=answer, item={"city": "Paris"})
            assert (graded.reward, troubles(graded.metadata.errors)) == (reward, set())
        combined = {**MULTI, "graders": {"a": PYTHON, "b": CHECK}}
        assert (await graders.run(grader=combined, model_sample="Paris", item={"city": "Paris"})).reward == 1


async def test_failures_of_code_have_openais_names(with_python: Opened, official: Official) -> None:
    bodies = {
        "return item['missing']": ("python_grader_runtime_error", "KeyError: 'missing'"),
        "return float('nan')": ("python_grader_runtime_error", "finite"),
        "import os; os._exit(0)": ("python_grader_server_error", "ended with status"),
    }
    async with official(with_python) as openai:
        for body, (error, reason) in bodies.items():
            grader = {**PYTHON, "source": f"def grade(sample, item):\n    {body}"}
            graded = await openai.fine_tuning.alpha.graders.run(grader=grader, model_sample="a", item={})
            assert graded.reward == 0
            assert error in troubles(graded.metadata.errors)
            assert reason in graded.metadata.message
            details = {
                name: value for name, value in graded.metadata.errors.to_dict().items() if isinstance(value, str)
            }
            assert reason in details.get(f"{error}_details", details.get(f"{error}_type", ""))


async def test_a_server_without_a_sandbox_says_so_at_its_start(
    opening: Opening, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    async with opening(python_graders=True) as opened:
        response = await opened.client.post(f"{GRADERS}/validate", json={"grader": PYTHON})
    assert response.status_code == 400
    assert "bwrap is not installed" in response.json()["error"]["message"]
    assert "install bubblewrap" in response.json()["error"]["message"]


async def test_an_answer_is_checked_against_a_schema(graders: AsyncGraders) -> None:
    for answer, reward in (('{"city": "Paris"}', 1), ('{"town": "Paris"}', 0), ("Paris", 0)):
        graded = await graders.run(grader=SCHEMA, model_sample=answer)
        assert (graded.reward, graded.metadata.scores["valid"]) == (reward, reward == 1)


async def test_what_is_not_in_the_item_is_a_grade_of_nothing_that_says_so(graders: AsyncGraders) -> None:
    graded = await graders.run(grader=CHECK, model_sample="Paris")
    assert (graded.reward, troubles(graded.metadata.errors)) == (0, {"invalid_variable_error"})
    assert graded.metadata.message == "there is no item.city"


async def test_a_model_is_asked_through_the_gateway_and_metered(opened: Opened, graders: AsyncGraders) -> None:
    await opened.publish_cold("sql")
    graded = await graders.run(grader={**SCORE, "model": "sql@stable"}, model_sample="4")
    assert troubles(graded.metadata.errors) == {"model_grader_parse_error"}  # the fake says who it is, and no number
    assert "'sql@1'" in graded.metadata.message
    assert graded.metadata.sampled_model_name == "sql@1"
    assert [*graded.api_model_grader_token_usage_per_model] == ["sql@1"]
    assert opened.residents == {"sql@1": ("resident", 0)}
    metrics = (await opened.client.get("/metrics")).text
    assert 'patchbay_requests_total{adapter="sql",status="200"} 1.0' in metrics


async def test_a_model_that_cannot_answer_is_a_grade_of_nothing_with_its_reason(
    opened: Opened, graders: AsyncGraders
) -> None:
    opened.state.admission.is_draining = True
    graded = await graders.run(grader=SCORE, model_sample="4")
    assert troubles(graded.metadata.errors) == {
        "model_grader_server_error",
        "model_grader_server_error_details",
    }
    assert "shutting down" in graded.metadata.errors.api_model_grader_server_error_details


async def test_a_model_that_dies_is_a_grade_of_nothing(opened: Opened, graders: AsyncGraders, until: Until) -> None:
    opened.builder.knobs.token_s = 0.2
    grading = asyncio.create_task(graders.run(grader=SCORE, model_sample="4"))
    await until(lambda: opened.state.admission._in_flight == 1)
    opened.engine.die()
    assert "model_grader_server_error" in troubles((await grading).metadata.errors)


async def test_a_caller_asks_models_under_its_own_key(opening: Opening, official: Official) -> None:
    async with opening(allow_anonymous=True) as opened:
        _, secret = await opened.state.keys.create("ops", [Scope.ADMIN])
        async with official(opened) as openai:
            graded = await openai.with_options(api_key=secret).fine_tuning.alpha.graders.run(
                grader=SCORE, model_sample="4"
            )
            assert troubles(graded.metadata.errors) == {"model_grader_parse_error"}
            with pytest.raises(client_library.AuthenticationError):
                await openai.fine_tuning.alpha.graders.run(grader=CHECK, model_sample="4")


@pytest.mark.parametrize(
    ("grader", "param", "reason"),
    [
        ({}, "grader.type", "Field required"),
        ({**CHECK, "operation": "neq"}, "grader.operation", "'ilike'"),
        ({**SIMILAR, "evaluation_metric": "rouge_9"}, "grader.evaluation_metric", "'fuzzy_match'"),
        ({**SIMILAR, "evaluation_metric": "cosine"}, "grader.evaluation_metric", "choose fuzzy_match"),
        ({**SCORE, "model": "gpt-4o"}, "grader.model", "`gpt-4o` does not exist"),
        (
            {**MULTI, "graders": {"a": {**LABEL, "model": "sql@9"}, "b": CHECK}},
            "grader.graders.a.model",
            "does not exist",
        ),
        ({**MULTI, "calculate_output": "a.b"}, "grader.calculate_output", "no arithmetic"),
        (PYTHON, "grader.type", "--python-graders"),
        ({**MULTI, "graders": {"a": PYTHON, "b": CHECK}}, "grader.graders.a.type", "--python-graders"),
        ({**SCHEMA, "schema": {"type": "text"}}, "grader.schema", "'text' is not valid"),
    ],
)
async def test_a_malformed_grader_is_refused_by_its_field(
    refused: Refused, grader: dict[str, Any], param: str, reason: str
) -> None:
    status, error = await refused(grader)
    assert (status, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert reason in error["message"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"grader": CHECK}, "model_sample"),
        ({"grader": "eq", "model_sample": "a"}, "grader"),
        ({"grader": CHECK, "model_sample": 1}, "model_sample"),
        ({"grader": CHECK, "model_sample": "a", "item": ["a"]}, "item"),
        ({"grader": CHECK, "model_sample": "a", "reference_answer": "a"}, "reference_answer"),
    ],
)
async def test_a_malformed_request_is_refused_by_its_field(
    client: httpx.AsyncClient, body: dict[str, Any], param: str
) -> None:
    response = await client.post(f"{GRADERS}/run", json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


async def test_graders_that_ask_nobody_work_while_the_engine_is_down(
    opened: Opened, client: httpx.AsyncClient, until: Until
) -> None:
    opened.builder.knobs.start_s = 3600
    opened.engine.die()
    await until(lambda: opened.state.engine.state == "rebuilding")
    body = {"model_sample": "Paris", "item": {"city": "Paris"}}
    assert (await client.post(f"{GRADERS}/run", json={**body, "grader": MULTI})).json()["reward"] == 1
    asking = await client.post(f"{GRADERS}/run", json={**body, "grader": SCORE})
    assert (asking.status_code, asking.json()["error"]["code"]) == (503, "engine_not_ready")


async def test_the_server_answers_others_while_long_texts_are_compared(opened: Opened, listening: Listening) -> None:
    body = {"grader": {**SIMILAR, "evaluation_metric": "meteor"}, "model_sample": "ab " * 30_000}
    body = {**body, "item": {"city": "ba " * 30_000}}
    answered = 0
    async with listening(opened.app) as url, httpx.AsyncClient(base_url=url) as client:
        grading = asyncio.create_task(client.post(f"{GRADERS}/run", json=body))
        while not grading.done():
            assert (await client.get("/health")).status_code == 200
            answered += 1
        assert grading.result().json()["reward"] == 0
    assert answered > 1
