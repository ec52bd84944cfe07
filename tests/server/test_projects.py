"""Two projects on one server: what is of one does not exist for the other.

Each attempt is sent twice with a key of the other project: for what exists, and for what never did. Both answers must
be the same, so that nobody learns what exists.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import pytest

from adapters.names import FineTunedName
from server.access.scope import ALL_SCOPES, Scope
from server.errors import ResponseNotFound
from server.gateway.route_scopes import ROUTE_SCOPES
from server.scheduling.adapter_queue import Turn
from server.scheduling.fair_scheduler import FairScheduler
from tests.server.opened import MakeAdapter, Opened, Opening
from trainer.jobs.checkpoints import CheckpointDraft

TENANT_SCOPES: Final = ALL_SCOPES - {Scope.ADMIN, Scope.METRICS}
SECRET_TEXT: Final = "the secret of acme"
FINE_TUNED: Final = "ft:base:acme::abc:ckpt-step-1"
LORA_NAME: Final = "acme/sql"

UNKNOWN: Final = {
    "adapter": "never-there",
    "loaded": "never/there",
    "fine_tuned": "ft:base:acme::xyz:ckpt-step-1",
    "file": "file-" + "0" * 24,
    "upload": "upload_" + "0" * 24,
    "part": "part_" + "0" * 24,
    "job": "ftjob-" + "0" * 24,
    "batch": "batch_" + "0" * 24,
    "response": "resp_" + "0" * 24,
    "eval": "eval_" + "0" * 24,
    "eval_run": "evalrun_" + "0" * 24,
    "output_item": "outputitem_" + "0" * 24,
    "completion": "chatcmpl-" + "0" * 32,
    "feedback": "feedback-" + "0" * 24,
    "permission": "cp_" + "0" * 24,
}
"""Of each kind, a name that nothing ever had."""


@dataclass(frozen=True)
class Attempt:
    """A request in which ``{kind}`` stands for a name of that kind; ``route`` is the route as the table has it."""

    route: str
    path: str
    body: Any = None
    files: Mapping[str, Any] | None = None
    statuses: tuple[int, ...] = (404,)

    def __str__(self) -> str:
        return f"{self.route} {'' if self.body is None else json.dumps(self.body)[:60]}".strip()

    def filled(self, names: Mapping[str, str]) -> tuple[str, str, Any]:
        path, body = self.path, json.dumps(self.body)
        for kind, name in names.items():
            path, body = path.replace("{" + kind + "}", name), body.replace("{" + kind + "}", name)
        return self.route.partition(" ")[0], path, json.loads(body)


VERSION: Final = "/v1/adapters/{name}/versions/{version}"
JOB: Final = "/v1/fine_tuning/jobs/{job_id}"
PERMISSIONS: Final = "/v1/fine_tuning/checkpoints/{checkpoint:path}/permissions"
GRADER: Final = {"type": "score_model", "name": "g", "model": "{adapter}", "input": [{"role": "user", "content": "?"}]}
EVAL: Final = "/v1/evals/{eval_id}"
CUSTOM: Final = {"type": "custom", "item_schema": {"type": "object"}}
EXACT: Final = {
    "type": "string_check", "name": "g", "input": "{{item.a}}", "reference": "{{item.a}}", "operation": "eq",
}  # fmt: skip
ITEMS: Final = {"type": "file_content", "content": [{"item": {"a": "the secret of acme"}}]}
ANSWERED: Final = {"type": "jsonl", "source": ITEMS}
SAMPLED: Final = {
    "type": "completions", "source": ITEMS, "model": "base",
    "input_messages": {"type": "template", "template": [{"role": "user", "content": "{{item.a}}"}]},
}  # fmt: skip
METHOD: Final = {"model": "base", "training_file": "{file}"}
ASKED: Final = {"messages": [{"role": "user", "content": "hello"}]}


def same(route: str, body: Any = None, **more: Any) -> Attempt:
    """Return an attempt on ``route`` whose parameters are the names of what the other project has."""
    method, _, path = route.partition(" ")
    filled = path
    for parameter, kind in PARAMETERS.items():
        filled = filled.replace("{" + parameter + "}", kind)
    return Attempt(f"{method} {path}", filled, body, **more)


PARAMETERS: Final = {
    "name": "{adapter}",
    "version": "1",
    "alias": "stable",
    "file:path": "adapter_config.json",
    "file": "config.json",
    "project": "globex",
    "model:path": "{adapter}",
    "job_id": "{job}",
    "step": "1",
    "checkpoint:path": "{fine_tuned}",
    "permission_id": "{permission}",
    "file_id": "{file}",
    "upload_id": "{upload}",
    "batch_id": "{batch}",
    "response_id": "{response}",
    "eval_id": "{eval}",
    "run_id": "{eval_run}",
    "output_item_id": "{output_item}",
    "completion_id": "{completion}",
    "feedback_id": "{feedback}",
}

ATTEMPTS: Final = [
    *(Attempt("POST /v1/chat/completions", "/v1/chat/completions", {"model": model, **ASKED}) for model in (
        "{adapter}", "{adapter}@1", "{adapter}@stable", "{loaded}", "{fine_tuned}",
    )),
    *(same(f"GET /v1/adapters/{{name}}{rest}") for rest in (
        "", "/aliases", "/aliases/{alias}", "/aliases/{alias}/rollout",
        "/versions", "/versions/{version}", "/versions/{version}/content",
        "/versions/{version}/content/{file:path}",
    )),
    same("DELETE /v1/adapters/{name}"),
    *(same(f"{verb} {VERSION}{rest}") for verb, rest in (
        ("DELETE", ""), ("POST", "/load"), ("POST", "/unload"), ("POST", "/pin"), ("POST", "/unpin"),
    )),
    same("DELETE /v1/adapters/{name}/shares/{project}"),
    same("PUT /v1/adapters/{name}/aliases/{alias}", {"version": 1}),
    same("DELETE /v1/adapters/{name}/aliases/{alias}"),
    same("PUT /v1/adapters/{name}/aliases/{alias}/rollout", {"candidate": 1, "weight": 5}),
    same("DELETE /v1/adapters/{name}/aliases/{alias}/rollout"),
    same("POST /v1/adapters/{name}/aliases/{alias}/rollout/promote"),
    same("POST /v1/adapters/{name}/aliases/{alias}/rollout/rollback"),
    same("POST /v1/adapters/{name}/promote", {"version": 1}),
    same("POST /v1/adapters/{name}/rollback"),
    Attempt("POST /v1/adapters/diff", "/v1/adapters/diff", {"a": "{adapter}", "b": "own"}),
    Attempt("POST /v1/adapters/diff", "/v1/adapters/diff", {"a": "own", "b": "{adapter}@1"}),
    *(Attempt("POST /v1/adapters/{name}/merge", "/v1/adapters/mixed/merge", {
        "versions": [{"reference": reference, "weight": 1.0}], "method": "linear",
    }, statuses=(400, 404)) for reference in ("{adapter}", "{fine_tuned}", "{loaded}")),
    Attempt("POST /v1/unload_lora_adapter", "/v1/unload_lora_adapter", {"lora_name": "{adapter}"}),
    Attempt("POST /v1/unload_lora_adapter", "/v1/unload_lora_adapter", {"lora_name": "{loaded}"}, statuses=(400, 404)),
    Attempt("POST /v1/unload_lora_adapter", "/v1/unload_lora_adapter", {"lora_name": "{fine_tuned}"}),
    *(Attempt(f"{verb} /v1/models/{{model:path}}", f"/v1/models/{model}", statuses=(400, 404)) for verb, model in (
        ("GET", "{adapter}"), ("GET", "{adapter}@1"), ("GET", "{fine_tuned}"), ("GET", "{loaded}"),
        ("DELETE", "{adapter}"), ("DELETE", "{fine_tuned}"), ("DELETE", "{loaded}"),
    )),
    *(same(f"GET /v1/files/{{file_id}}{rest}") for rest in ("", "/content")),
    same("DELETE /v1/files/{file_id}"),
    same("POST /v1/uploads/{upload_id}/parts", files={"data": b"x"}),
    same("POST /v1/uploads/{upload_id}/complete", {"part_ids": ["{part}"]}),
    same("POST /v1/uploads/{upload_id}/cancel"),
    same("GET /v1/batches/{batch_id}"),
    same("POST /v1/batches/{batch_id}/cancel"),
    Attempt("POST /v1/batches", "/v1/batches", {
        "input_file_id": "{batch_file}", "endpoint": "/v1/chat/completions", "completion_window": "24h",
    }, statuses=(400,)),
    *(same(f"GET {JOB}{rest}") for rest in (
        "", "/events", "/events?stream=true", "/checkpoints", "/model", "/model/{file}",
    )),
    *(same(f"POST {JOB}/{verb}") for verb in ("cancel", "pause", "resume")),
    Attempt("POST /v1/fine_tuning/jobs", "/v1/fine_tuning/jobs", METHOD, statuses=(400,)),
    *(Attempt("POST /v1/fine_tuning/jobs", "/v1/fine_tuning/jobs", {
        "model": "base", "training_file": "{own_file}", **fields,
    }, statuses=(400,)) for fields in (
        {"validation_file": "{file}"}, {"warm_start": "{adapter}"}, {"model": "{adapter}"}, {"model": "{fine_tuned}"},
    )),
    same(f"GET {PERMISSIONS}"),
    same(f"POST {PERMISSIONS}", {"project_ids": ["globex"]}),
    same(f"DELETE {PERMISSIONS}/{{permission_id}}"),
    *(same(f"{verb} /v1/responses/{{response_id}}{rest}") for verb, rest in (
        ("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/input_items"),
    )),
    *(same(f"{verb} /v1/{path}") for verb in ("GET", "DELETE") for path in (
        "chat/completions/{completion_id}", "feedback/{feedback_id}",
    )),
    *(Attempt("POST /v1/feedback", "/v1/feedback", {"answer": name, "rating": "up"}) for name in (
        "{completion}", "{response}",
    )),
    Attempt("POST /v1/feedback/export", "/v1/feedback/export", {"as": "kto"}, statuses=(400,)),
    Attempt("GET /v1/feedback", "/v1/feedback?after={feedback}", statuses=(400,)),
    same("POST /v1/fine_tuning/alpha/graders/validate", {"grader": GRADER}, statuses=(400,)),
    same("POST /v1/fine_tuning/alpha/graders/run", {"grader": GRADER, "model_sample": "x"}, statuses=(400,)),
    *(Attempt(f"GET /v1/{kind}s", f"/v1/{path}?after={{{kind}}}", statuses=(400,)) for kind, path in (
        ("file", "files"), ("job", "fine_tuning/jobs"), ("batch", "batches"), ("eval", "evals"),
    )),
    *(same(f"{verb} {EVAL}", body) for verb, body in (("GET", None), ("POST", {"name": "mine"}), ("DELETE", None))),
    *(same(f"{verb} {EVAL}/runs", body) for verb, body in (("GET", None), ("POST", {"data_source": ANSWERED}))),
    *(same(f"{verb} {EVAL}/runs/{{run_id}}") for verb in ("GET", "POST", "DELETE")),
    same(f"POST {EVAL}/runs/{{run_id}}/cancel"),
    *(same(f"GET {EVAL}/runs/{{run_id}}/output_items{rest}") for rest in ("", "/{output_item_id}")),
    Attempt("GET /v1/evals/runs", "/v1/evals/{own_eval}/runs?after={eval_run}", statuses=(400,)),
    *(Attempt(f"{verb} own eval", f"/v1/evals/{{own_eval}}/runs/{{eval_run}}{rest}") for verb, rest in (
        ("GET", ""), ("POST", ""), ("POST", "/cancel"), ("DELETE", ""), ("GET", "/output_items"),
        ("GET", "/output_items/{output_item}"),
    )),
    *(Attempt("POST own run", "/v1/evals/{own_eval}/runs", {"data_source": source}, statuses=(400, 404)) for source in (
        {**ANSWERED, "source": {"type": "file_id", "id": "{evals_file}"}},
        {**SAMPLED, "model": "{adapter}"}, {**SAMPLED, "model": "{fine_tuned}"}, {**SAMPLED, "model": "{loaded}"},
    )),
    Attempt("POST /v1/evals", "/v1/evals", {"data_source_config": CUSTOM, "testing_criteria": [GRADER]},
        statuses=(400,)),
]  # fmt: skip


@dataclass
class Tenants:
    """A server with two projects, and what the first, acme, has on it."""

    opened: Opened
    acme: httpx.Headers
    globex: httpx.Headers
    theirs: dict[str, str] = field(default_factory=dict)

    async def send(self, attempt: Attempt, names: Mapping[str, str]) -> httpx.Response:
        method, path, body = attempt.filled(names)
        content = {"files": attempt.files} if attempt.files else {} if body is None else {"json": body}
        return await self.opened.client.request(method, path, headers=self.globex, **content)

    async def as_acme(self, method: str, path: str, **request: Any) -> Any:
        response = await self.opened.client.request(method, path, headers=self.acme, **request)
        assert response.status_code in {200, 201}, (path, response.text)
        return response.json() if response.headers["content-type"] == "application/json" else response.text

    async def operator(self) -> httpx.Headers:
        _, secret = await self.opened.state.keys.create("ops", [Scope.ADMIN])
        return httpx.Headers({"Authorization": f"Bearer {secret}"})

    async def share(self, adapter: str, project: str) -> None:
        path = f"/v1/adapters/{adapter}/shares/{project}"
        response = await self.opened.client.put(path, headers=await self.operator())
        assert response.status_code == 200, response.text

    async def text_for_globex(self, path: str) -> str:
        response = await self.opened.client.get(path, headers=self.globex)
        assert response.status_code == 200, response.text
        return response.text


async def key(opened: Opened, project: str, **limits: Any) -> httpx.Headers:
    _, secret = await opened.state.keys.create(project, TENANT_SCOPES, project=project, **limits)
    return httpx.Headers({"Authorization": f"Bearer {secret}"})


def rows() -> bytes:
    messages = [{"role": "user", "content": SECRET_TEXT}, {"role": "assistant", "content": "yes"}]
    return b"".join(json.dumps({"messages": messages, "n": n}).encode() + b"\n" for n in range(12))


def batch_line() -> bytes:
    line = {"custom_id": SECRET_TEXT, "method": "POST", "url": "/v1/chat/completions"}
    return json.dumps({**line, "body": {"model": "base", **ASKED}}).encode()


@pytest.fixture
async def tenants(opened: Opened, make_adapter: MakeAdapter) -> Tenants:
    tenants = Tenants(opened, await key(opened, "acme"), await key(opened, "globex"))
    state, theirs = opened.state, tenants.theirs

    async def uploaded(headers: httpx.Headers, content: bytes, purpose: str) -> str:
        form = {"file": ("rows.jsonl", content), "purpose": (None, purpose)}
        return str((await opened.client.post("/v1/files", files=form, headers=headers)).json()["id"])

    adapter = make_adapter(1)
    await tenants.as_acme("POST", "/v1/adapters/secret-sql/versions", files=adapter.multipart())
    own = await opened.client.post(
        "/v1/adapters/own/versions", files=make_adapter(2).multipart(), headers=tenants.globex
    )
    assert own.status_code == 201
    version = state.registry.catalog.version("secret-sql", 1)
    facts = {name: getattr(version, name) for name in ("digest", "base_fingerprint", "rank", "size_bytes")}
    more = {"source": "upload", "report": {}, "project": "acme"}
    await state.registry.add_version("secret-loaded", **facts, **more, lora_name=LORA_NAME)
    await state.registry.add_version("secret-tuned", **facts, **more, fine_tuned_name=FineTunedName(FINE_TUNED))
    theirs |= {"adapter": "secret-sql", "loaded": LORA_NAME, "fine_tuned": FINE_TUNED}
    theirs["file"] = await uploaded(tenants.acme, rows(), "fine-tune")
    theirs["batch_file"] = await uploaded(tenants.acme, batch_line(), "batch")
    theirs["own_file"] = await uploaded(tenants.globex, rows(), "fine-tune")
    upload = {"bytes": 1, "filename": "secret", "mime_type": "x", "purpose": "fine-tune"}
    theirs["upload"] = (await tenants.as_acme("POST", "/v1/uploads", json=upload))["id"]
    part = await tenants.as_acme("POST", f"/v1/uploads/{theirs['upload']}/parts", files={"data": b"x"})
    theirs["part"] = part["id"]
    job = {"model": "base", "training_file": theirs["file"], "adapter": "secret-job"}
    theirs["job"] = (await tenants.as_acme("POST", "/v1/fine_tuning/jobs", json=job))["id"]
    while (claim := await state.records.queue.take("worker", 60)) is None:  # its files are being checked
        await asyncio.sleep(0)
    await state.records.queue.record(claim, checkpoints=[CheckpointDraft(1, FINE_TUNED, {})])
    permissions = f"/v1/fine_tuning/checkpoints/{FINE_TUNED}/permissions"
    theirs["permission"] = (await tenants.as_acme("POST", permissions, json={"project_ids": ["p"]}))["data"][0]["id"]
    batch = {"input_file_id": theirs["batch_file"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    theirs["batch"] = (await tenants.as_acme("POST", "/v1/batches", json=batch))["id"]
    made = {"data_source_config": CUSTOM, "testing_criteria": [EXACT], "name": SECRET_TEXT}
    theirs["eval"] = (await tenants.as_acme("POST", "/v1/evals", json=made))["id"]
    mine = await opened.client.post("/v1/evals", json={**made, "name": "own"}, headers=tenants.globex)
    theirs["own_eval"] = mine.json()["id"]
    theirs["evals_file"] = await uploaded(tenants.acme, b'{"item": {"a": "b"}}', "evals")
    runs = f"/v1/evals/{theirs['eval']}/runs"
    theirs["eval_run"] = (await tenants.as_acme("POST", runs, json={"data_source": ANSWERED}))["id"]
    items = f"{runs}/{theirs['eval_run']}/output_items"
    while not (found := (await tenants.as_acme("GET", items))["data"]):
        await asyncio.sleep(0.05)
    theirs["output_item"] = found[0]["id"]
    theirs["response"] = "resp_" + "7" * 24
    await state.responses.add("acme", [], {"id": theirs["response"], "object": "response", "output": [SECRET_TEXT]})
    stored = await tenants.as_acme("POST", "/v1/chat/completions", json={"model": "base", **ASKED, "store": True})
    theirs["completion"] = stored["id"]
    rated = {"answer": stored["id"], "rating": "up"}
    theirs["feedback"] = (await tenants.as_acme("POST", "/v1/feedback", json=rated))["id"]
    return tenants


def anonymous(response: httpx.Response, names: Mapping[str, str]) -> tuple[int, str, list[str]]:
    """Return status, body and the names of the headers, with ``names`` replaced by their kinds."""
    text = response.text
    for kind, name in sorted(names.items(), key=lambda each: -len(each[1])):
        text = text.replace(name, kind)
    return response.status_code, text, sorted(response.headers)


async def test_what_another_project_has_is_as_what_never_was(tenants: Tenants) -> None:
    assert len(ATTEMPTS) >= 40
    own = {name: tenants.theirs[name] for name in ("own_file", "own_eval")}
    unknown = {**UNKNOWN, "batch_file": "file-" + "1" * 24, "evals_file": "file-" + "2" * 24, **own}
    for attempt in ATTEMPTS:
        found = await tenants.send(attempt, tenants.theirs)
        never = await tenants.send(attempt, unknown)
        assert found.status_code in attempt.statuses, (str(attempt), found.text)
        assert anonymous(found, tenants.theirs) == anonymous(never, unknown), str(attempt)


def test_every_route_of_a_tenant_that_names_something_is_attempted() -> None:
    named = {route for scope in TENANT_SCOPES for route in ROUTE_SCOPES[scope] if "{" in route}
    named -= {"POST /v1/adapters/{name}/versions"}  # a name is taken or free: see the test of taken names
    attempted = {attempt.route.partition("?")[0] for attempt in ATTEMPTS}
    assert named - attempted == set()


async def test_the_attempts_change_nothing_that_the_other_project_has(tenants: Tenants) -> None:
    async def everything() -> list[Any]:
        paths = (
            "adapters",
            "adapters/secret-sql",
            "models",
            "files",
            "fine_tuning/jobs",
            "batches",
            "evals",
            "feedback",
        )
        listed = [await tenants.as_acme("GET", f"/v1/{path}") for path in paths]
        response = await tenants.as_acme("GET", f"/v1/responses/{tenants.theirs['response']}")
        runs = await tenants.as_acme("GET", f"/v1/evals/{tenants.theirs['eval']}/runs")
        return [*listed, response, runs, await tenants.as_acme("GET", f"/v1/files/{tenants.theirs['file']}/content")]

    batch = f"/v1/batches/{tenants.theirs['batch']}"
    while (await tenants.as_acme("GET", batch))["status"] != "completed":
        pass
    before = await everything()
    for attempt in ATTEMPTS:
        await tenants.send(attempt, tenants.theirs)
    assert await everything() == before


async def test_lists_have_what_the_project_has_alone(tenants: Tenants) -> None:
    paths = ("adapters", "models", "files", "fine_tuning/jobs", "batches", "evals", "usage")
    listed = "".join([await tenants.text_for_globex(f"/v1/{path}") for path in paths])
    for name in (*tenants.theirs.values(), "secret", SECRET_TEXT, "acme"):
        assert name not in listed or name in {tenants.theirs["own_file"], tenants.theirs["own_eval"]}
    assert "own" in listed


@pytest.mark.parametrize("name", ["secret-sql", "secret-gone"])
async def test_the_name_of_another_projects_adapter_cannot_be_published_merged_or_trained(
    tenants: Tenants, make_adapter: MakeAdapter, name: str
) -> None:
    await tenants.as_acme("POST", "/v1/adapters/secret-gone/versions", files=make_adapter(3).multipart())
    await tenants.as_acme("DELETE", "/v1/adapters/secret-gone")
    client, headers = tenants.opened.client, tenants.globex
    files = make_adapter(4).multipart()
    published = await client.post(f"/v1/adapters/{name}/versions", files=files, headers=headers)
    mixed = {"versions": [{"reference": "own", "weight": 1.0}], "method": "linear"}
    merged = await client.post(f"/v1/adapters/{name}/merge", json=mixed, headers=headers)
    for response in (published, merged):
        assert response.status_code == 403
        assert response.json()["error"]["code"] == "name_not_allowed"
    for fields in ({"adapter": name}, {"suffix": name}):
        body = {"model": "base", "training_file": tenants.theirs["own_file"], **fields}
        trained = await client.post("/v1/fine_tuning/jobs", json=body, headers=headers)
        assert (trained.status_code, trained.json()["error"]["code"]) == (403, "name_not_allowed")
    assert name not in await tenants.text_for_globex("/v1/adapters")


LORA_NAMES: Final = ("secret-sql", LORA_NAME, "secret-sql@1", "secret-sql@2", "secret-sql@prod", "secret-gone@1")


@pytest.mark.parametrize("name", LORA_NAMES)
async def test_a_load_call_takes_neither_a_name_of_another_project_nor_what_its_versions_would_be_called(
    tenants: Tenants, make_adapter: MakeAdapter, name: str
) -> None:
    await tenants.as_acme("POST", "/v1/adapters/secret-gone/versions", files=make_adapter(3).multipart())
    await tenants.as_acme("DELETE", "/v1/adapters/secret-gone")
    for in_place in (True, False):
        body = {"lora_name": name, "lora_path": "/nowhere", "load_inplace": in_place}
        refused = await tenants.opened.client.post("/v1/load_lora_adapter", json=body, headers=tenants.globex)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "name_not_allowed")


async def test_a_name_under_which_another_project_loaded_stays_its_own_after_a_deletion(tenants: Tenants) -> None:
    for path in (f"/v1/models/{LORA_NAME}", "/v1/adapters/secret-sql"):
        await tenants.as_acme("DELETE", path)
    body = {"lora_name": LORA_NAME, "lora_path": "/nowhere"}
    refused = await tenants.opened.client.post("/v1/load_lora_adapter", json=body, headers=tenants.globex)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "name_not_allowed")


async def test_a_key_with_patterns_loads_nothing_that_would_be_a_version_of_another_name(opened: Opened) -> None:
    headers = await key(opened, "acme", adapters=["team-*"])
    for name in ("team@prod", "team@7", "other/x"):
        body = {"lora_name": name, "lora_path": "/nowhere"}
        refused = await opened.client.post("/v1/load_lora_adapter", json=body, headers=headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "name_not_allowed"), name


async def test_a_key_with_patterns_learns_of_no_name_that_was_loaded(tenants: Tenants) -> None:
    headers = await key(tenants.opened, "globex", adapters=["team-*"])
    answers = []
    for name in (LORA_NAME, UNKNOWN["loaded"], "secret/sql"):
        body = {"lora_name": name, "lora_path": "/nowhere"}
        refused = await tenants.opened.client.post("/v1/load_lora_adapter", json=body, headers=headers)
        answers.append((refused.status_code, refused.text.replace(name, "NAME")))
    assert answers[0][0] == 403
    assert len(set(answers)) == 1


async def test_a_shared_adapter_is_used_and_read_and_not_changed(tenants: Tenants) -> None:
    client, headers = tenants.opened.client, tenants.globex
    await tenants.share("secret-sql", "third")
    await tenants.share("secret-sql", "globex")
    assert (await tenants.as_acme("GET", "/v1/adapters/secret-sql"))["shared_with"] == ["globex", "third"]
    shared = (await client.get("/v1/adapters/secret-sql", headers=headers)).json()
    assert (shared["project"], shared["shared_with"]) == ("acme", ["globex"])
    answer = await client.post("/v1/chat/completions", json={"model": "secret-sql", **ASKED}, headers=headers)
    assert (answer.status_code, answer.headers["x-patchbay-adapter"]) == (200, "secret-sql@1")
    assert "secret-sql" in await tenants.text_for_globex("/v1/adapters")
    assert "secret-sql" in await tenants.text_for_globex("/v1/models")
    await tenants.text_for_globex("/v1/adapters/secret-sql/versions/1/content/adapter_config.json")
    version = tenants.opened.state.registry.catalog.version("secret-sql", 1)
    made_of = {"training": {"training_file": tenants.theirs["file"]}, "merge": {"versions": ["secret-tuned@1"]}}
    facts = {name: getattr(version, name) for name in ("digest", "base_fingerprint", "rank", "size_bytes")}
    await tenants.opened.state.registry.add_version(
        "secret-sql", **facts, source=f"job:{tenants.theirs['job']}", report={"rank": 8, **made_of}, project="acme"
    )
    borrowed = await tenants.text_for_globex("/v1/adapters/secret-sql/versions/2")
    for text in (borrowed, await tenants.text_for_globex("/v1/adapters/secret-sql/versions")):
        assert '"source":"shared"' in text
        assert not any(secret in text for secret in ("job:", "training_file", "secret-tuned"))
    assert json.loads(borrowed)["report"] == {"rank": 8}
    assert (await tenants.as_acme("GET", "/v1/adapters/secret-sql/versions/2"))["report"] == {"rank": 8, **made_of}
    changes = [("DELETE", ""), ("POST", "/rollback"), ("DELETE", "/shares/third"), ("POST", "/versions/1/pin")]
    for method, rest in changes:
        refused = await client.request(method, f"/v1/adapters/secret-sql{rest}", headers=headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "adapter_is_shared"), (method, rest)
    await tenants.as_acme("DELETE", "/v1/adapters/secret-sql/shares/globex")
    assert (await client.get("/v1/adapters/secret-sql", headers=headers)).status_code == 404
    again = await client.delete("/v1/adapters/secret-sql/shares/globex", headers=tenants.acme)
    assert (again.status_code, again.json()["error"]["code"]) == (404, "share_not_found")


async def test_an_operator_alone_shares_and_both_projects_end_a_share(tenants: Tenants) -> None:
    client, path = tenants.opened.client, "/v1/adapters/secret-sql/shares/globex"
    refused = await client.put(path, headers=tenants.acme)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "insufficient_scope")
    for headers in (tenants.acme, tenants.globex):
        await tenants.share("secret-sql", "globex")
        assert (await client.delete(path, headers=headers)).status_code == 200
        assert (await client.get("/v1/adapters/secret-sql", headers=tenants.globex)).status_code == 404
    assert (await client.delete(path, headers=tenants.globex)).status_code == 404


async def test_an_operator_alone_lifts_a_quarantine(tenants: Tenants) -> None:
    version = tenants.opened.state.registry.catalog.version("secret-sql", 1)
    await tenants.opened.state.registry.set_quarantine(version, "engine_deaths")
    path = "/v1/adapters/secret-sql/versions/1/unquarantine"
    assert (await tenants.opened.client.post(path, headers=tenants.acme)).status_code == 403
    lifted = await tenants.opened.client.post(path, headers=await tenants.operator())
    assert (lifted.status_code, lifted.json()["quarantine"]) == (200, None)


async def test_an_operator_sees_all_projects_and_publishes_for_them(
    tenants: Tenants, make_adapter: MakeAdapter
) -> None:
    opened, headers = tenants.opened, await tenants.operator()
    adapters = await opened.client.get("/v1/adapters", headers=headers)
    projects = {each["name"]: each["project"] for each in adapters.json()["data"]}
    assert (projects["secret-sql"], projects["own"]) == ("acme", "globex")
    files = make_adapter(5).multipart()
    published = await opened.client.post("/v1/adapters/secret-sql/versions", files=files, headers=headers)
    assert (published.status_code, published.json()["version"]) == (201, 2)
    assert (await tenants.as_acme("GET", "/v1/adapters/secret-sql"))["latest_version"] == 2


async def test_a_generation_takes_its_turn_among_those_of_its_project(
    tenants: Tenants, monkeypatch: pytest.MonkeyPatch
) -> None:
    projects, request = [], FairScheduler.request

    def noted(scheduler: FairScheduler, *args: Any, project: str, **more: Any) -> Turn:
        projects.append(project)
        return request(scheduler, *args, project=project, **more)

    monkeypatch.setattr(FairScheduler, "request", noted)
    for headers in (tenants.acme, tenants.globex):
        body = {"model": "base", **ASKED}
        await tenants.opened.client.post("/v1/chat/completions", json=body, headers=headers)
    assert projects == ["acme", "globex"]


async def test_pins_are_shared_between_projects_and_a_refusal_names_the_callers_own(
    opening: Opening, make_adapter: MakeAdapter
) -> None:
    async with opening(max_residents=5) as opened:
        headers = {name: await key(opened, name) for name in ("acme", "globex")}

        async def pin(project: str, number: int) -> httpx.Response:
            name = f"{project}-{number}"
            files = make_adapter(number).multipart()
            await opened.client.post(f"/v1/adapters/{name}/versions", files=files, headers=headers[project])
            return await opened.client.post(f"/v1/adapters/{name}/versions/1/pin", headers=headers[project])

        assert [(await pin("acme", number)).status_code for number in range(4)] == [200, 200, 200, 400]
        assert (await pin("globex", 0)).status_code == 200
        refused = (await pin("globex", 1)).json()["error"]["message"]
        assert "globex-0@1" in refused
        assert "acme" not in refused


async def test_responses_of_one_project_neither_drive_out_nor_replace_those_of_another(opening: Opening) -> None:
    async with opening(max_responses=2) as opened:
        store = opened.state.responses
        for project, count in (("acme", 1), ("globex", 5)):
            for number in range(count):
                assert await store.add(project, [], {"id": f"resp_{number}", "output": [project]})
        assert (await store.get("resp_0", "acme")).body["output"] == ["acme"]
        for number, project in ((2, "globex"), (0, "globex"), (4, "acme")):
            with pytest.raises(ResponseNotFound):
                await store.get(f"resp_{number}", project)
        assert await store.add("globex", [], {"id": "resp_0", "output": ["globex"]})
        assert (await store.get("resp_0", None)).body["output"] == ["globex"]
        await store.delete("resp_0", None)
        assert (await store.get("resp_0", "acme")).body["output"] == ["acme"]


async def test_an_idempotency_key_of_another_project_repeats_nothing(tenants: Tenants) -> None:
    upload = {"bytes": 1, "filename": "x", "mime_type": "x", "purpose": "fine-tune"}
    ids = set()
    for headers in (tenants.acme, tenants.globex):
        keyed = {**headers, "Idempotency-Key": "1"}
        ids.add((await tenants.opened.client.post("/v1/uploads", json=upload, headers=keyed)).json()["id"])
    assert len(ids) == 2


async def test_a_batch_of_another_projects_adapter_fails_as_one_of_no_adapter(tenants: Tenants) -> None:
    client, headers = tenants.opened.client, tenants.globex
    errors = []
    for model in ("secret-sql", UNKNOWN["adapter"]):
        line = json.loads(batch_line()) | {"body": {"model": model, **ASKED}}
        form = {"file": ("b", json.dumps(line).encode()), "purpose": (None, "batch")}
        file = (await client.post("/v1/files", files=form, headers=headers)).json()["id"]
        body = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        batch = (await client.post("/v1/batches", json=body, headers=headers)).json()
        while (batch := (await client.get(f"/v1/batches/{batch['id']}", headers=headers)).json())["errors"] is None:
            pass
        errors.append(json.dumps(batch["errors"]).replace(model, "MODEL"))
    assert errors[0] == errors[1]


async def test_the_log_and_the_metrics_do_not_name_what_an_attempt_may_not_see(
    tenants: Tenants, capsys: pytest.CaptureFixture[str]
) -> None:
    await tenants.opened.client.post(
        "/v1/chat/completions", json={"model": "secret-loaded", **ASKED}, headers=tenants.globex
    )
    _, secret = await tenants.opened.state.keys.create("ops", [Scope.METRICS])
    metrics = await tenants.opened.client.get("/metrics", headers={"Authorization": f"Bearer {secret}"})
    assert metrics.status_code == 200
    assert 'adapter="secret-loaded"' not in metrics.text
    assert "secret-loaded" not in capsys.readouterr().out


async def test_a_key_with_patterns_publishes_names_that_they_allow_alone(
    opened: Opened, make_adapter: MakeAdapter
) -> None:
    headers = await key(opened, "acme", adapters=["team-*"])
    files = make_adapter(6).multipart()
    allowed = await opened.client.post("/v1/adapters/team-a/versions", files=files, headers=headers)
    refused = await opened.client.post("/v1/adapters/other/versions", files=files, headers=headers)
    assert (allowed.status_code, refused.status_code) == (201, 403)
    assert refused.json()["error"]["code"] == "name_not_allowed"
    unnamed = {"model": "base", "training_file": "file-1"}
    for fields, code in (({}, "invalid_field"), ({"suffix": "other"}, "name_not_allowed")):
        job = await opened.client.post("/v1/fine_tuning/jobs", json=unnamed | fields, headers=headers)
        assert job.json()["error"]["code"] == code
