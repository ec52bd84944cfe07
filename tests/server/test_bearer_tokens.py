"""A server with an issuer of bearer tokens: who gets in, and in whose name."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.responses import Response

from server.access import issuer_keys
from server.access.caller import subject_id
from server.access.keys_mark import HAD_KEYS
from server.access.scope import Scope
from server.batches.batch import BatchDraft
from server.errors import Unauthenticated
from server.gateway.authenticate import authorize
from server.gateway.route_scopes import OPEN, ROUTE_SCOPES, scope_of
from server.settings import ExposedWithoutKeys
from tests.postgres import on_both_databases
from tests.server.issuer import DOCUMENT, KEYS, Issuer, make_key
from tests.server.opened import CHAT, Opened, Opening
from tests.until import Until


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def error_of(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


@pytest.fixture
async def guarded(opening: Opening, issuer: Issuer) -> AsyncIterator[Opened]:
    """A server that takes the issuer's tokens and has no key."""
    async with opening(**issuer.settings) as opened:
        yield opened


async def test_a_token_asks_models(guarded: Opened, issuer: Issuer) -> None:
    guarded.client.headers.update(bearer(issuer.token()))
    assert await guarded.answer("base") == "base"
    assert (await guarded.client.get("/v1/models")).status_code == 200


async def test_a_token_may_be_in_anthropic_s_header(guarded: Opened, issuer: Issuer) -> None:
    assert (await guarded.client.get("/v1/models", headers={"x-api-key": issuer.token()})).status_code == 200


async def test_without_a_key_or_a_token_no_route_is_open_although_there_is_no_key(guarded: Opened) -> None:
    assert guarded.state.keys.is_empty
    for routes in ROUTE_SCOPES.values():
        for route in routes:
            method, path = route.split()
            response = await guarded.client.request(method, re.sub(r"\{[^}]+\}", "1", path))
            assert error_of(response) == (401, "invalid_api_key"), route
            assert response.headers["www-authenticate"] == "Bearer"
    for path in OPEN:
        assert (await guarded.client.get(path)).status_code == 200
    message = (await guarded.client.get("/v1/models")).json()["error"]["message"]
    assert "an API key or a bearer token of http://127.0.0.1" in message


async def test_a_route_needs_its_scope(guarded: Opened, issuer: Issuer) -> None:
    for scope in Scope:
        headers = bearer(issuer.token(scope=f"openid {scope}", sub=scope))
        for path in ("/v1/models", "/v1/adapters", "/v1/files", "/v1/status", "/v1/keys"):
            response = await guarded.client.get(path, headers=headers)
            may = scope in (scope_of("GET", path), Scope.ADMIN)
            assert response.status_code == (200 if may else 403), (scope, path)
            if not may:
                assert response.json()["error"]["code"] == "insufficient_scope"
                assert "claim 'scope'" in response.json()["error"]["message"]


async def test_a_scope_beside_that_of_the_route_is_a_token_s_too(guarded: Opened, issuer: Issuer) -> None:
    headers = bearer(issuer.token(scope="adapters:write"))
    files = guarded.make_adapter().multipart()
    refused = await guarded.client.post(
        "/v1/adapters/sql/versions", files=files, params={"alias": "stable"}, headers=headers
    )
    assert refused.status_code == 403
    assert "this bearer token has no scope 'aliases:write'" in refused.json()["error"]["message"]


async def test_a_token_for_administration_makes_the_first_key(guarded: Opened, issuer: Issuer) -> None:
    made = await guarded.client.post(
        "/v1/keys", json={"name": "app", "scopes": ["infer"]}, headers=bearer(issuer.token(scope="admin"))
    )
    assert made.status_code == 201, made.text
    for secret in (made.json()["value"], issuer.token()):
        assert (await guarded.client.get("/v1/models", headers=bearer(secret))).status_code == 200


async def test_what_a_token_publishes_belongs_to_its_project(guarded: Opened, issuer: Issuer) -> None:
    scope = "adapters:write adapters:read aliases:write infer"
    guarded.client.headers.update(bearer(issuer.token(scope=scope)))
    await guarded.publish("sql")
    assert guarded.state.registry.catalog.adapter("sql").project == "acme"
    assert await guarded.answer("sql") == "sql@1"
    guarded.client.headers.update(bearer(issuer.token(scope=scope, project="globex")))
    assert (await guarded.chat("sql")).status_code == 404
    taken = await guarded.client.post("/v1/adapters/sql/versions", files=guarded.make_adapter().multipart())
    assert error_of(taken) == (403, "name_not_allowed")
    assert "key" not in taken.json()["error"]["message"]


@pytest.mark.parametrize("project", [None, "Not A Project", ["acme"]])
async def test_a_token_without_a_project_is_refused_with_the_name_of_the_claim(
    guarded: Opened, issuer: Issuer, project: Any
) -> None:
    for scope in ("infer", "admin"):
        headers = bearer(issuer.token(project=project, scope=scope))
        refused = await guarded.client.get("/v1/models", headers=headers)
        assert error_of(refused) == (403, "token_without_project")
        assert "claim 'project'" in refused.json()["error"]["message"]


async def test_the_claims_have_the_names_that_the_operator_gives(opening: Opening, issuer: Issuer) -> None:
    names = {"oidc_project_claim": "https://example.com/team", "oidc_scope_claim": "roles"}
    async with opening(**issuer.settings, **names) as opened:
        claims: dict[str, Any] = {"https://example.com/team": "globex", "roles": ["adapters:write", "aliases:write"]}
        opened.client.headers.update(bearer(issuer.token(**claims)))
        await opened.publish("sql")
        assert opened.state.registry.catalog.adapter("sql").project == "globex"
        assert (await opened.client.get("/v1/models")).status_code == 403


async def test_an_invalid_token_is_refused_with_the_reason(guarded: Opened, issuer: Issuer) -> None:
    expired = await guarded.client.get("/v1/models", headers=bearer(issuer.token(exp=1)))
    assert error_of(expired) == (401, "invalid_token")
    assert "it has expired" in expired.json()["error"]["message"]
    other = await guarded.client.get("/v1/models", headers=bearer(issuer.token(aud="other")))
    assert error_of(other) == (401, "invalid_token")
    forged = await guarded.client.get("/v1/models", headers=bearer(issuer.token(key=make_key("first"))))
    assert error_of(forged) == (401, "invalid_token")


async def test_a_server_without_an_issuer_takes_no_token(opened: Opened, issuer: Issuer) -> None:
    await opened.state.keys.create("first", [Scope.ADMIN])
    refused = await opened.client.get("/v1/models", headers=bearer(issuer.token()))
    assert error_of(refused) == (401, "invalid_api_key")
    assert issuer.requested == []


async def test_the_issuer_may_come_after_the_server(
    opening: Opening, issuer: Issuer, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(issuer_keys, "RETRY_S", 0.05)
    issuer.answers[DOCUMENT] = Response(status_code=502)
    async with opening(**issuer.settings) as opened:
        headers = bearer(issuer.token())
        refused = await opened.client.get("/v1/models", headers=headers)
        assert error_of(refused) == (503, "issuer_unavailable")
        assert int(refused.headers["retry-after"]) == 10
        assert (await opened.client.get("/v1/models")).status_code == 401
        _, secret = await opened.state.keys.create("app", [Scope.INFER])
        assert (await opened.client.get("/v1/models", headers=bearer(secret))).status_code == 200
        issuer.answers.clear()

        async def is_taken() -> bool:
            return (await opened.client.get("/v1/models", headers=headers)).status_code == 200

        await until(is_taken)


async def test_the_hot_path_asks_neither_the_issuer_nor_the_signature(
    guarded: Opened, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    guarded.client.headers.update(bearer(issuer.token()))
    assert await guarded.answer("base") == "base"
    monkeypatch.setattr("server.access.token_issuer.deserialize_compact", None)
    for _ in range(3):
        assert await guarded.answer("base") == "base"
    assert issuer.requested == [DOCUMENT, KEYS]


async def test_pages_and_host_names_are_as_on_a_server_with_keys(guarded: Opened, issuer: Issuer) -> None:
    outside = {"Host": "box.example", "Origin": "https://app.example.com"}
    assert (await guarded.client.get("/v1/models", headers=outside)).status_code == 401
    assert (await guarded.client.get("/v1/models", headers=outside | bearer(issuer.token()))).status_code == 200


async def test_other_machines_are_served_with_an_issuer_as_with_keys(opening: Opening, issuer: Issuer) -> None:
    async with opening(host="0.0.0.0", **issuer.settings) as opened:
        assert (await opened.client.get("/v1/models")).status_code == 401
    with pytest.raises(ExposedWithoutKeys):
        async with opening(host="0.0.0.0"):
            pass


async def test_an_issuer_leaves_no_mark_of_keys_behind(opening: Opening, issuer: Issuer, data_dir: Any) -> None:
    async with opening(**issuer.settings, follow_interval_s=0.01) as opened:
        assert not opened.state.keys.is_open
        await asyncio.sleep(0.05)
    assert not (data_dir / HAD_KEYS).exists()
    async with opening() as opened:
        assert await opened.answer("base") == "base"


async def test_a_batch_needs_a_key_that_outlives_it(guarded: Opened, issuer: Issuer) -> None:
    guarded.client.headers.update(bearer(issuer.token(scope="files infer")))
    uploaded = await guarded.client.post("/v1/files", files={"file": ("a.jsonl", b"{}\n")}, data={"purpose": "batch"})
    assert uploaded.status_code == 200, uploaded.text
    body = {"input_file_id": uploaded.json()["id"], "endpoint": CHAT, "completion_window": "24h"}
    refused = await guarded.client.post("/v1/batches", json=body)
    assert error_of(refused) == (403, "api_key_needed")
    assert "patchbay keys create" in refused.json()["error"]["message"]
    assert (await guarded.client.get("/v1/batches")).json()["data"] == []


async def test_a_job_whose_grader_asks_models_needs_a_key_that_outlives_it(guarded: Opened, issuer: Issuer) -> None:
    guarded.client.headers.update(bearer(issuer.token(scope="files infer training")))
    rows = b'{"messages": [{"role": "user", "content": "a"}]}\n'
    sent = {"files": {"file": ("a.jsonl", rows)}, "data": {"purpose": "fine-tune"}}
    file_id = (await guarded.client.post("/v1/files", **sent)).json()["id"]  # type: ignore[arg-type]
    judge = {"type": "score_model", "name": "j", "model": "base", "input": [{"role": "user", "content": "?"}]}
    same = {
        "type": "string_check",
        "name": "s",
        "input": "{{sample.output_text}}",
        "reference": "a",
        "operation": "eq",
    }
    both = {"type": "multi", "name": "m", "graders": {"j": judge, "s": same}, "calculate_output": "j + s"}
    for grader, status in ((judge, 403), (both, 403), (same, 200)):
        method = {"type": "reinforcement", "reinforcement": {"grader": grader}}
        body = {"model": "base", "training_file": file_id, "method": method}
        assert (await guarded.client.post("/v1/fine_tuning/jobs", json=body)).status_code == status


async def test_a_run_of_an_eval_needs_a_key_that_outlives_it(guarded: Opened, issuer: Issuer) -> None:
    guarded.client.headers.update(bearer(issuer.token(scope="evals infer")))
    template = {"input": "{{item.a}}", "reference": "{{item.a}}", "operation": "eq"}
    body = {
        "data_source_config": {"type": "custom", "item_schema": {"type": "object"}},
        "testing_criteria": [{"type": "string_check", "name": "same", **template}],
    }
    eval_id = (await guarded.client.post("/v1/evals", json=body)).json()["id"]
    source = {"type": "jsonl", "source": {"type": "file_content", "content": [{"item": {"a": "b"}}]}}
    refused = await guarded.client.post(f"/v1/evals/{eval_id}/runs", json={"data_source": source})
    assert error_of(refused) == (403, "api_key_needed")
    assert "patchbay keys create" in refused.json()["error"]["message"]


async def test_a_batch_of_the_time_without_keys_does_not_go_on_with_an_issuer(guarded: Opened, until: Until) -> None:
    with pytest.raises(Unauthenticated):
        authorize(guarded.state.keys, None, "POST", CHAT)
    line = {"custom_id": "a", "method": "POST", "url": CHAT, "body": {"model": "base", "messages": []}}
    file = await guarded.state.records.files.create("batch", "a.jsonl", _chunks(json.dumps(line).encode()))
    batch = await guarded.state.batches.create(BatchDraft(CHAT, file.id, key_id=None))

    async def has_failed() -> bool:
        return (await guarded.state.batches.get(batch.id)).state == "failed"

    await until(has_failed)
    assert "unknown, revoked or expired" in str((await guarded.state.batches.get(batch.id)).errors)


async def test_a_grader_asks_with_the_token_of_its_caller(guarded: Opened, issuer: Issuer) -> None:
    grader = {
        "type": "score_model",
        "name": "judge",
        "model": "base",
        "input": [{"role": "user", "content": "Score {{sample.output_text}}."}],
    }
    body = {"grader": grader, "model_sample": "Paris", "item": {}}
    path = "/v1/fine_tuning/alpha/graders/run"
    run = await guarded.client.post(path, json=body, headers=bearer(issuer.token(scope="evals infer")))
    assert run.status_code == 200, run.text
    assert "bearer token" not in run.text
    run = await guarded.client.post(path, json=body, headers=bearer(issuer.token(scope="evals")))
    assert "the bearer token has no scope 'infer'" in run.text


@on_both_databases
async def test_usage_the_audit_log_and_repeated_requests_name_the_subject(guarded: Opened, issuer: Issuer) -> None:
    subject = subject_id(issuer.url, "ada")
    guarded.client.headers.update(bearer(issuer.token(scope="infer adapters:write aliases:write")))
    await guarded.publish("sql")
    await guarded.answer("sql")
    (row,) = (await guarded.state.accounts.audit_log.list(after=None, limit=10))[0]
    assert (row.key_id, row.project) == (subject, "acme")
    (used,) = (await guarded.client.get("/v1/usage")).json()["data"]
    assert (used["key_id"], used["project"], used["requests"]) == (subject, "acme", 1)
    files = guarded.make_adapter(2).multipart()
    sent = {"files": files, "headers": {"Idempotency-Key": "once"}}
    first, again = [await guarded.client.post("/v1/adapters/sql/versions", **sent) for _ in range(2)]
    assert (first.json()["version"], again.json()["version"]) == (2, 2)
    other = await guarded.client.get("/v1/usage", headers=bearer(issuer.token(sub="eve")))
    assert other.json()["data"] == []


@on_both_databases
async def test_an_answer_is_not_repeated_for_another_project_of_the_subject(guarded: Opened, issuer: Issuer) -> None:
    async def send(project: str) -> httpx.Response:
        headers = {**bearer(issuer.token(scope="files", project=project)), "Idempotency-Key": "once"}
        body = {"purpose": "fine-tune", "filename": "f", "bytes": 5, "mime_type": "text/plain"}
        return await guarded.client.post("/v1/uploads", json=body, headers=headers)

    first, again, other = [await send(project) for project in ("acme", "acme", "globex")]
    assert first.json()["id"] == again.json()["id"]
    assert error_of(other) == (422, "idempotency_key_reused")


async def test_a_token_with_a_header_of_many_levels_is_invalid(guarded: Opened, issuer: Issuer) -> None:
    signed = issuer.token()
    header = json.loads(base64.urlsafe_b64decode(signed.partition(".")[0] + "=="))
    for depth in (900, 970, 980, 985, 990, 5000):
        text = json.dumps(header)[:-1] + ', "x": ' + "[" * depth + "]" * depth + "}"
        nested = base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")
        token = f"{nested}.{signed.partition('.')[2]}"
        assert error_of(await guarded.client.get("/v1/models", headers=bearer(token))) == (401, "invalid_token")


async def test_a_subject_has_limits(guarded: Opened, issuer: Issuer) -> None:
    admin = bearer(issuer.token(scope="admin", sub="ops"))
    path, limits = f"/v1/limits/key/{subject_id(issuer.url, 'ada')}", {"requests_per_minute": 1}
    assert (await guarded.client.put(path, json=limits, headers=admin)).status_code == 200
    assert (await guarded.client.put("/v1/limits/key/oidc:ada", json=limits, headers=admin)).status_code == 404
    guarded.client.headers.update(bearer(issuer.token()))
    allowed, refused = [await guarded.chat("base") for _ in range(2)]
    assert (allowed.status_code, refused.status_code) == (200, 429)
    assert "subject 'oidc:" in refused.json()["error"]["message"]
    guarded.client.headers.update(bearer(issuer.token(sub="eve")))
    assert (await guarded.chat("base")).status_code == 200
    assert (await guarded.client.delete(path, headers=admin)).status_code == 200


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
async def test_a_garbled_header_is_never_let_in_and_never_an_error_of_the_server(
    guarded: Opened, issuer: Issuer, data: st.DataObject
) -> None:
    token = issuer.token(scope="admin")
    cut = data.draw(st.integers(0, len(token)))
    text = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=60)
    garbled = data.draw(
        st.one_of(
            text,
            text.map(lambda each: f"{token[:cut]}{each}"),
            text.map(lambda each: f"{each}{token[cut:]}"),
            st.lists(text, min_size=3, max_size=3).map(".".join),
        )
    )
    if garbled.strip() != token:
        headers = {"Authorization": f"Bearer {garbled}".encode("latin-1")}
        assert (await guarded.client.get("/v1/models", headers=headers)).status_code == 401


async def _chunks(content: bytes) -> AsyncIterator[bytes]:
    yield content
