"""What a project stores and what it trains a day ends at its limit: further work is refused, and none is lost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from server.access.scope import Scope
from server.operations.training_accounts import settle_training
from server.settings import Settings
from tests.postgres import on_both_databases
from tests.server.opened import Opened, Opening
from tests.trainer.conftest import ClockAhead
from trainer.jobs.state import JobState

ROW = json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}) + "\n"
DATA = (ROW * 10).encode()
MINUTE = 60.0


async def send_file(opened: Opened, content: bytes = DATA) -> httpx.Response:
    return await opened.client.post("/v1/files", files={"file": ("rows.jsonl", content)}, data={"purpose": "fine-tune"})


async def create_job(opened: Opened) -> httpx.Response:
    file = (await send_file(opened)).json()["id"]
    return await opened.client.post("/v1/fine_tuning/jobs", json={"model": "base", "training_file": file})


async def train(opened: Opened, seconds: float) -> str:
    """Create a job and hold it for ``seconds``; return its id."""
    created = await create_job(opened)
    assert created.status_code == 200, created.text
    clock = ClockAhead()
    queue = replace(opened.state.records.queue, clock=clock)
    while (claim := await queue.take("worker", 60)) is None:  # its files are being checked
        await asyncio.sleep(0.01)
    clock.advance(seconds)
    await queue.heartbeat(claim)
    assert claim.job.id == created.json()["id"]
    return claim.job.id


def check_refused(response: httpx.Response, *, found: str) -> None:
    assert response.status_code == 429, response.text
    error = response.json()["error"]
    assert error["code"] == "insufficient_quota"
    assert found in error["message"]
    assert response.headers["x-should-retry"] == "false"


async def test_files_and_adapters_count_together_against_what_a_project_may_store(opened: Opened, key_id: str) -> None:
    size = (await opened.publish("sql"))["size_bytes"]
    await opened.limit("project", "default", stored_bytes=size + len(DATA) + 1000)
    stored = await send_file(opened)
    assert stored.status_code == 200, stored.text
    check_refused(await send_file(opened, DATA * 2), found="project 'default' may store")
    upload = {"purpose": "fine-tune", "filename": "f", "bytes": 2000, "mime_type": "text/plain"}
    check_refused(await opened.client.post("/v1/uploads", json=upload), found="2000 more")
    files = opened.make_adapter(2).multipart()
    check_refused(await opened.client.post("/v1/adapters/sql/versions", files=files), found="bytes of adapters")
    await opened.client.delete(f"/v1/files/{stored.json()['id']}")
    assert (await send_file(opened)).status_code == 200


async def test_a_project_that_is_full_gets_no_new_job_and_no_new_batch(opened: Opened, key_id: str) -> None:
    file = (await send_file(opened)).json()["id"]
    await opened.limit("project", "default", stored_bytes=len(DATA))
    job = {"model": "base", "training_file": file}
    check_refused(await opened.client.post("/v1/fine_tuning/jobs", json=job), found=f"it has {len(DATA)}")
    batch = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    check_refused(await opened.client.post("/v1/batches", json=batch), found=f"it has {len(DATA)}")


async def test_bytes_whose_number_is_not_stated_are_counted_before_they_are_stored(opened: Opened, key_id: str) -> None:
    async def chunked(request: httpx.Request) -> AsyncIterator[bytes]:
        yield await request.aread()

    async def send(method: str, path: str, **form: Any) -> httpx.Response:
        whole = opened.client.build_request(method, path, **form)
        kind = {"content-type": whole.headers["content-type"]}
        return await opened.client.request(method, path, content=chunked(whole), headers=kind)

    size = (await opened.publish("sql"))["size_bytes"]
    await opened.limit("project", "default", stored_bytes=size + 10)
    form = {"files": {"file": ("rows.jsonl", DATA)}, "data": {"purpose": "fine-tune"}}
    check_refused(await send("POST", "/v1/files", **form), found=f"{len(DATA)} more")
    files = opened.make_adapter(2).multipart()
    check_refused(await send("POST", "/v1/adapters/sql/versions", files=files), found=f"{size} more")
    assert (await opened.client.get("/v1/files")).json()["data"] == []
    assert len((await opened.client.get("/v1/adapters/sql/versions")).json()["data"]) == 1


async def test_the_pins_of_a_project_stay_within_its_resident_bytes(opened: Opened, key_id: str) -> None:
    size = (await opened.publish("sql"))["size_bytes"]
    await opened.publish("json", 2)
    await opened.limit("project", "default", resident_bytes=size)
    assert (await opened.client.post("/v1/adapters/sql/versions/1/pin")).status_code == 200
    refused = await opened.client.post("/v1/adapters/json/versions/1/pin")
    assert refused.status_code == 400
    assert "resident_bytes" in refused.json()["error"]["message"]


async def test_parts_of_an_upload_count_until_it_ends(opened: Opened, key_id: str) -> None:
    upload = {"purpose": "fine-tune", "filename": "f", "bytes": 2 * len(DATA), "mime_type": "text/plain"}
    upload_id = (await opened.client.post("/v1/uploads", json=upload)).json()["id"]
    await opened.limit("project", "default", stored_bytes=len(DATA) + 900)
    path = f"/v1/uploads/{upload_id}/parts"
    assert (await opened.client.post(path, files={"data": DATA})).status_code == 200
    check_refused(await opened.client.post(path, files={"data": DATA}), found=f"it has {len(DATA)}")
    await opened.client.post(f"/v1/uploads/{upload_id}/cancel")
    assert (await send_file(opened)).status_code == 200


async def test_what_one_project_stores_does_not_count_for_another(opened: Opened, key_id: str) -> None:
    await opened.limit("project", "default", stored_bytes=1)
    _, secret = await opened.state.keys.create("other", [Scope.FILES], project="globex")
    check_refused(await send_file(opened), found="project 'default'")
    opened.client.headers["authorization"] = f"Bearer {secret}"
    assert (await send_file(opened)).status_code == 200


@pytest.mark.parametrize("name", ["stored_bytes", "resident_bytes"])
async def test_bytes_are_limits_of_projects_alone(opened: Opened, key_id: str, name: str) -> None:
    response = await opened.client.put(f"/v1/limits/key/{key_id}", json={name: 10})
    assert response.status_code == 400, response.text
    assert "belong to projects" in response.json()["error"]["message"]
    with pytest.raises(ValueError, match="belong to projects"):
        Settings(key_limits=(f"{name}=10",))


async def test_the_residents_of_a_project_stay_within_its_bytes(opened: Opened, key_id: str) -> None:
    size = (await opened.publish("sql"))["size_bytes"]
    await opened.limit("project", "default", resident_bytes=size)
    await opened.publish("json", 2)
    assert list(opened.residents) == ["json@1"]
    await opened.answer("sql")
    assert list(opened.residents) == ["sql@1"]


@on_both_databases
async def test_training_is_charged_to_its_key_project_and_adapter_once(opened: Opened, key_id: str) -> None:
    job_id = await train(opened, 5 * MINUTE)
    for _ in range(2):
        await settle_training(opened.state)
    (row,) = (await opened.client.get("/v1/usage")).json()["data"]
    assert (row["key_id"], row["project"], row["adapter"]) == (key_id, "default", job_id)
    assert row["training_seconds"] == pytest.approx(5 * MINUTE, abs=20)


@pytest.mark.parametrize("kind", ["key", "project"])
async def test_a_job_is_paused_at_its_minutes_of_the_day_and_goes_on_with_a_larger_limit(
    opened: Opened, key_id: str, kind: str
) -> None:
    account = key_id if kind == "key" else "default"
    await opened.limit(kind, account, training_minutes_per_day=5)
    job_id = await train(opened, 6 * MINUTE)
    await settle_training(opened.state)
    assert (await opened.state.records.jobs.get(job_id)).state is JobState.PAUSING
    (last,) = (await opened.client.get(f"/v1/fine_tuning/jobs/{job_id}/events", params={"limit": 1})).json()["data"]
    assert f"{kind} '{account}' has used its 5 minutes of training of this day" in last["message"]
    check_refused(await opened.client.post(f"/v1/fine_tuning/jobs/{job_id}/resume"), found="go on tomorrow")
    refused = await create_job(opened)
    check_refused(refused, found="training_minutes_per_day")
    assert int(refused.headers["retry-after"]) <= 24 * 3600
    await opened.limit(kind, account, training_minutes_per_day=50)
    assert (await opened.client.post(f"/v1/fine_tuning/jobs/{job_id}/resume")).status_code == 200


async def test_a_default_limit_of_projects_holds_for_training(opening: Opening) -> None:
    async with opening(project_limits=("training_minutes_per_day=1",)) as opened:
        await train(opened, 2 * MINUTE)
        await settle_training(opened.state)
        check_refused(await create_job(opened), found="1 minutes")
