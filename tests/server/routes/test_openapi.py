"""Every route answers any request as its OpenAPI schema declares: never with a 5xx, refusals with OpenAI's error body.

Schemathesis makes the requests out of the schema: valid ones, invalid ones, and the borders in between. Half of the
names are replaced by names that exist, so that not every response is a 404.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import APIOperation, Case, CheckContext, GenerationMode, Response
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from tests.server.opened import Listening, Opened
from trainer.jobs.checkpoints import CheckpointDraft

EXAMPLES = 25
TIMEOUT_S = 30
CHECKPOINT = "ft:base:patchbay::abc:ckpt-step-1"
JOBS = "/v1/fine_tuning/jobs"
PERMISSIONS = f"/v1/fine_tuning/checkpoints/{CHECKPOINT}/permissions"
NEVER_ANSWERED = {
    f"POST {JOBS}/{{job_id}}/publish",  # nobody trains here
    f"POST {JOBS}/{{job_id}}/policy_answers",
    f"POST {JOBS}/{{job_id}}/checkpoints/{{step}}/publish",
    f"GET {JOBS}/{{job_id}}/model",
    f"GET {JOBS}/{{job_id}}/model/{{file}}",
    "POST /v1/responses",  # the fake answers chats alone
    "POST /v1/responses/{response_id}/cancel",  # there are no background responses
    "POST /v1/adapters/{name}/aliases/{alias}/rollout/rollback",  # the promotion has ended it
    "DELETE /v1/adapters/{name}/aliases/{alias}/rollout",
    "POST /v1/adapters/{name}/versions",  # no schema says how an adapter's bytes are made
}

Known = dict[str, list[Any]]


@dataclass
class Api:
    """The routes of an open server: their schema, and what they were asked."""

    url: str
    schema: Any
    session: requests.Session
    known: Known
    answered: set[str] = field(default_factory=set)

    def operations(self, prefix: str) -> list[Any]:
        """Those that only look come first, those that take away what the others need last."""
        found = self.schema.include(path_regex=f"^{prefix}(/|$)").get_all_operations()
        order = {"get": 0, "put": 1, "post": 1, "delete": 2}

        def rank(each: Any) -> tuple[int, bool, int, bool]:
            depth = each.path.count("/") if each.method == "delete" else 0  # an alias is deleted before its adapter
            is_alias = "/aliases/" in each.path  # and before the version that it points to
            return order[each.method], each.path.endswith("/cancel"), -depth, not is_alias

        return sorted(map(Ok.ok, found), key=rank)

    def ask_all(self, operation: APIOperation) -> None:
        for mode in modes_of(operation):
            self._ask_examples(operation, mode)
        for case in borders_of(operation):
            self._ask(case)

    def _ask_examples(self, operation: APIOperation, mode: GenerationMode) -> None:
        all_known = st.just({name: values[0] for name, values in self.known.items()})
        half_known = st.fixed_dictionaries({}, optional={k: st.sampled_from(v) for k, v in self.known.items()})

        @settings(
            max_examples=EXAMPLES,
            derandomize=True,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(operation.as_strategy(generation_mode=mode), all_known | half_known)
        def ask(case: Case, known: dict[str, Any]) -> None:
            for part in (case.path_parameters, case.query, case.body):
                if isinstance(part, dict):
                    part.update({name: known[name] for name in part.keys() & known.keys()})
            self._ask(case)

        ask()

    def _ask(self, case: Case) -> None:
        if isinstance(case.query, dict) and "stream" in case.query:
            case.path_parameters["job_id"] = self.known["ended"][0]  # a stream ends with its job
        response = case.call(base_url=self.url, session=self.session, timeout=TIMEOUT_S)
        case.validate_response(response, checks=[not_a_server_error, refuses_as_openai_does])
        if response.status_code < 400:
            case.validate_response(response, checks=[content_type_conformance, response_schema_conformance])
            self.answered.add(f"{case.method} {case.operation.path}")


def modes_of(operation: APIOperation) -> list[GenerationMode]:
    """Nothing can be wrong about a path alone: its parts are free text."""
    return list(GenerationMode) if operation.query or operation.body else [GenerationMode.POSITIVE]


def borders_of(operation: APIOperation) -> Iterator[Case]:
    schema = operation.schema
    config = schema.config.generation_for(operation=operation)
    return schema.iter_coverage_cases(operation, generation_modes=list(GenerationMode), generation_config=config)


def refuses_as_openai_does(_context: CheckContext, response: Response, case: Case) -> None:
    if response.status_code >= 400 and case.method != "HEAD":
        error = response.json()["error"]
        assert {"message", "type", "param", "code"} <= error.keys()
        assert isinstance(error["message"], str)
        assert error["message"]


@pytest.fixture
async def known(opened: Opened, chat_rows: Callable[..., bytes]) -> Known:
    """What exists, by the field that takes it: an adapter, files, an ended job, one with a checkpoint, others."""
    client, queue = opened.client, opened.state.records.queue
    versions = [str((await opened.publish("sql", seed))["version"]) for seed in (1, 2)]
    for version in (2, 1):  # what a rollback goes back to
        await client.post("/v1/adapters/sql/promote", json={"version": version})
    rollout = "/v1/adapters/sql/aliases/stable/rollout"
    await client.put(rollout, json={"candidate": 2, "weight": 1})
    form = {"purpose": (None, "fine-tune"), "file": ("train.jsonl", chat_rows())}
    files = [(await client.post("/v1/files", files=form)).json()["id"] for _ in range(3)]
    form = {"purpose": (None, "batch"), "file": ("requests.jsonl", b"{}")}
    requests = (await client.post("/v1/files", files=form)).json()["id"]
    body = {"input_file_id": requests, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    while (held := await opened.state.batches.take("another process", 3600)) is None:
        await client.post("/v1/batches", json=body)
    batch = held.batch.id
    await opened.state.responses.add("default", [{"role": "user", "content": "x"}], {"id": "resp_1", "output": []})
    message = {"role": "assistant", "content": "y"}
    completion = {"id": "chatcmpl-1", "object": "chat.completion", "model": "sql@1", "choices": [{"message": message}]}
    await opened.state.responses.add("default", [{"role": "user", "content": "x"}], completion)
    rated = [
        (await client.post("/v1/feedback", json={"answer": "chatcmpl-1", "rating": "up"})).json() for _ in range(4)
    ]
    body = {"bytes": 4, "filename": "a.jsonl", "mime_type": "text/jsonl", "purpose": "batch"}
    uploads = [(await client.post("/v1/uploads", json=body)).json()["id"] for _ in range(3)]
    parts = [await client.post(f"/v1/uploads/{each}/parts", files={"data": b"{}\n\n"}) for each in uploads]
    part = parts[0].json()["id"]
    jobs = [(await client.post(JOBS, json={"model": "base", "training_file": files[0]})).json()["id"] for _ in range(6)]
    await client.post(f"{JOBS}/{jobs[0]}/cancel")
    async with asyncio.timeout(20):
        while (claim := await queue.take("worker", 60)) is None:
            await asyncio.sleep(0.01)  # their files are being checked
    await queue.record(claim, checkpoints=[CheckpointDraft(1, CHECKPOINT, {})])
    permissions = (await client.post(PERMISSIONS, json={"project_ids": ["p"]})).json()["data"]
    return {
        "a": ["sql@1"],
        "b": ["sql@2"],
        "after": ["sql", *files, *jobs, batch],
        "batch_id": [batch],
        "upload_id": uploads,
        "response_id": ["resp_1"],
        "feedback_id": [each["id"] for each in rated],
        "answer": ["chatcmpl-1"],
        "rating": ["up"],
        "as": ["kto"],
        **{name: [None] for name in ("correction", "preferred", "rejected", "ranking", "since")},
        "part_ids": [[part]],
        "bytes": [4],
        "md5": [None],
        "filename": ["a.jsonl"],
        "mime_type": ["text/jsonl"],
        "purpose": ["batch"],
        "expires_after": [None],
        "completion_window": ["24h"],
        "endpoint": ["/v1/chat/completions"],
        "input_file_id": [requests],
        "alias": ["stable"],
        "candidate": [2, 1],
        "force": [False],
        "guards": [[]],
        "header": [None],
        "require": [None],
        "shadow": [1],
        "steps": [[]],
        "sticky": ["none"],
        "checkpoint": [CHECKPOINT],
        "expected": [None, 1],
        "file": ["adapter_config.json"],
        "file_id": files[1:],
        "generation": [None, 3],
        "job_id": jobs[1:],
        "limit": [2],
        "name": ["sql"],
        "permission_id": [permission["id"] for permission in permissions],
        "project_ids": [["p", "q"]],
        "step": [1],
        "version": versions,
        "versions": [[{"reference": "sql@1", "weight": 0.5}]],
        "ended": jobs[:1],
        **what_a_job_takes(files[0]),
    }


def what_a_job_takes(file_id: str) -> Known:
    fields = {
        "adapter": "sums",
        "alpha": 16,
        "metadata": {"a": "b"},
        "rank": 8,
        "suffix": "sums",
        "targets": "all-linear",
    }
    unsaid = ["hyperparameters", "integrations", "method", "validation_file", "warm_start"]
    return {
        "model": ["base", "sql"],
        "training_file": [file_id],
        "grader": [{"type": "string_check", "input": "{{sample.output_text}}", "reference": "a", "operation": "ne"}],
        **{name: [value] for name, value in fields.items()},
        **{name: [None] for name in unsaid},
    }


@pytest.fixture
async def api(opened: Opened, listening: Listening, known: Known) -> AsyncIterator[Api]:
    async with listening(opened.app) as url:
        with requests.Session() as session:
            schema = await asyncio.to_thread(schemathesis.openapi.from_url, f"{url}/openapi.json")
            yield Api(url, schema, session, known)


@pytest.mark.parametrize(
    "prefix",
    [
        "/v1/files",
        "/v1/uploads",
        "/v1/batches",
        "/v1/responses",
        "/v1/feedback",
        "/v1/fine_tuning",
        "/v1/models",
        "/v1/adapters",
    ],
)
async def test_no_request_is_answered_with_a_server_error(api: Api, prefix: str) -> None:
    operations = api.operations(prefix)
    for operation in operations:
        await asyncio.to_thread(api.ask_all, operation)
    assert {operation.label for operation in operations} - api.answered <= NEVER_ANSWERED
