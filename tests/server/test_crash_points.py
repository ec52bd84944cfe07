"""A server that dies: in the middle of an upload, at each point where it can, and of a run of an eval.

What the next server on its data finds.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from adapters.base_model import BaseModel
from adapters.crash_points import KILLED
from adapters.publisher import CRASH_POINTS
from tests.server.opened import MakeAdapter, Opening
from tests.until import Until

ROOT = Path(__file__).resolve().parents[2]
PROCESS = Path(__file__).with_name("serving_process.py")
VERSIONS = "/v1/adapters/sql/versions"

Start = Callable[[str], Awaitable[tuple[asyncio.subprocess.Process, str]]]


@pytest.fixture
async def start(data_dir: Path, base: BaseModel) -> AsyncIterator[Start]:
    """Starts a server process that will die at a point; gives it and its URL."""
    started: list[asyncio.subprocess.Process] = []

    async def begin(point: str) -> tuple[asyncio.subprocess.Process, str]:
        arguments = [str(PROCESS), str(data_dir), json.dumps(dict(base.modules)), point]
        process = await asyncio.create_subprocess_exec(
            sys.executable, *arguments, env={"PYTHONPATH": str(ROOT)}, stdout=asyncio.subprocess.PIPE
        )
        started.append(process)
        assert process.stdout is not None
        return process, f"http://127.0.0.1:{int(await process.stdout.readline())}"

    yield begin
    for process in started:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def stored(client: httpx.AsyncClient) -> dict[int, dict[str, bytes]]:
    """The files of each version as the server hands them out."""
    found: dict[int, dict[str, bytes]] = {}
    for version in (await client.get(VERSIONS)).json()["data"]:
        path = f"{VERSIONS}/{version['version']}/content"
        names = [file["name"] for file in (await client.get(path)).json()["data"]]
        found[version["version"]] = {name: (await client.get(f"{path}/{name}")).content for name in names}
    return found


@pytest.mark.parametrize("point", CRASH_POINTS)
async def test_an_upload_that_the_server_dies_in_is_a_whole_version_or_none(
    point: str, opening: Opening, start: Start, make_adapter: MakeAdapter, data_dir: Path
) -> None:
    first, second = (dict(make_adapter(seed).multipart().values()) for seed in (1, 2))
    async with opening() as opened:
        acknowledged = await opened.publish("sql", 1)

    process, url = await start(point)
    async with httpx.AsyncClient(base_url=url) as client:
        with pytest.raises(httpx.TransportError):
            await client.post(VERSIONS, files=make_adapter(2).multipart(), params={"alias": "canary"})
    assert await process.wait() == KILLED

    is_registered = point == "publish.registered"
    async with opening() as opened:
        assert await stored(opened.client) == ({1: first, 2: second} if is_registered else {1: first})
        adapter = (await opened.client.get("/v1/adapters/sql")).json()
        assert adapter["aliases"] == ({"canary": 2, "stable": 1} if is_registered else {"stable": 1})
        assert await opened.answer("sql") == "sql@1"

        versions = (await opened.client.get(VERSIONS)).json()["data"]
        blobs, rows = {path.name for path in data_dir.glob("sha256/*/*")}, {version["digest"] for version in versions}
        assert acknowledged["digest"] in rows <= blobs
        assert len(blobs - rows) == (1 if point == "publish.stored" else 0)

        again = await opened.publish("sql", 2, alias="canary")
        assert again["version"] == len(versions) + 1
        assert await opened.answer("sql@canary") == again["id"]
        assert (await stored(opened.client))[again["version"]] == second
        assert {path.name for path in data_dir.glob("sha256/*/*")} == rows | {again["digest"]}


async def test_a_rollout_and_the_sides_of_its_users_survive_a_kill(
    opening: Opening, start: Start, make_adapter: MakeAdapter
) -> None:
    process, url = await start("nowhere")
    rollout = "/v1/adapters/sql/aliases/stable/rollout"
    users = [f"user-{number}" for number in range(12)]

    async def sides(client: httpx.AsyncClient) -> dict[str, str]:
        chats = [
            await client.post("/v1/chat/completions", json={"model": "sql", "messages": [], "user": user})
            for user in users
        ]
        return {user: chat.json()["model"] for user, chat in zip(users, chats, strict=True)}

    async with httpx.AsyncClient(base_url=url) as client:
        for seed in (1, 2):
            await client.post(VERSIONS, files=make_adapter(seed).multipart())
        begun = (await client.put(rollout, json={"candidate": 2, "weight": 50, "sticky": "user"})).json()
        before = await sides(client)
        assert set(before.values()) == {"sql@1", "sql@2"}
        process.kill()
        await process.wait()

    async with opening() as opened:
        assert await sides(opened.client) == before
        shown = (await opened.client.get(rollout)).json()
        assert [shown[name] for name in ("id", "state", "generation")] == [begun["id"], "active", 1]


async def every(client: httpx.AsyncClient, path: str) -> list[Any]:
    """Return all entries of a list, page by page."""
    entries: list[Any] = []
    page: dict[str, Any] = {"has_more": True}
    while page["has_more"]:
        after = {"after": entries[-1]["id"]} if entries else {}
        page = (await client.get(path, params={"limit": 200, **after})).json()
        entries += page["data"]
    return entries


async def test_a_run_of_an_eval_goes_on_after_a_kill_and_asks_no_finished_item_again(
    opening: Opening, start: Start, until: Until
) -> None:
    criterion = {"type": "string_check", "name": "exact", "operation": "eq", "reference": "{{item.reference}}"}
    config = {"type": "custom", "item_schema": {"type": "object"}}
    template = {"type": "template", "template": [{"role": "user", "content": "{{item.reference}}"}]}
    rows = [{"item": {"reference": "base"}} for _ in range(5_000)]
    source = {"type": "completions", "model": "base", "input_messages": template}
    process, url = await start("none")
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        body = {"data_source_config": config, "testing_criteria": [{**criterion, "input": "{{sample.output_text}}"}]}
        runs = f"/v1/evals/{(await client.post('/v1/evals', json=body)).json()['id']}/runs"
        content = {"type": "file_content", "content": rows}
        run = (await client.post(runs, json={"data_source": {**source, "source": content}})).json()
        path = f"{runs}/{run['id']}"

        async def executed() -> int:
            count: int = (await client.get(path)).json()["result_counts"]["total"]
            return count

        await until(executed)
        process.kill()
    await process.wait()

    async with opening() as opened:
        left = (await opened.client.get(path)).json()
        kept = await every(opened.client, f"{path}/output_items")
        assert (left["status"], 0 < len(kept) < 5_000) == ("in_progress", True)

        async def has_ended() -> Any:
            now = (await opened.client.get(path)).json()
            return now if now["status"] == "completed" else None

        done = await until(has_ended, within_s=300)
        assert done["result_counts"] == {"total": 5_000, "passed": 5_000, "failed": 0, "errored": 0}
        assert done["per_model_usage"][0]["invocation_count"] == 5_000
        items = await every(opened.client, f"{path}/output_items")
        assert len({item["datasource_item_id"] for item in items}) == 5_000
        by_id = {item["id"]: item for item in items}
        assert all(by_id[item["id"]] == item for item in kept)
