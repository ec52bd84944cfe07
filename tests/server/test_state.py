"""The parts together: what survives an engine, and what survives a restart."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from adapters.base_model import BaseModel
from adapters.checks.canonicalizer import Canonical
from server.access.api_key import Scope
from server.access.keys_mark import HAD_KEYS
from server.engine.fake import FakeBuilder, Knobs
from server.operations.publish import register_bundled_adapters
from tests.postgres import on_both_databases
from tests.process_clock import ProcessClock
from tests.server.opened import MakeAdapter, Opened, Opening
from tests.until import Until


async def test_control_routes_answer_while_the_engine_is_down(opening: Opening, base: BaseModel, until: Until) -> None:
    knobs = Knobs()
    async with opening(builder=FakeBuilder(base, knobs=knobs)) as opened:
        await opened.publish("sql")
        await opened.publish("sql", 2)
        knobs.start_s = 3600
        opened.engine.die()
        await until(lambda: opened.state.engine.state == "rebuilding")
        assert (await opened.client.get("/health")).status_code == 200
        assert (await opened.client.get("/v1/adapters")).json()["data"][0]["name"] == "sql"
        assert (await opened.client.get("/v1/models")).json()["data"][0]["id"] == "base"
        moved = await opened.client.put("/v1/adapters/sql/aliases/stable", json={"version": 2})
        assert (moved.status_code, moved.json()["version"]) == (200, 2)
        assert (await opened.client.get("/v1/adapters/sql/versions/2")).json()["residency"] is None
        refused = await opened.chat("sql")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_not_ready")
        assert int(refused.headers["retry-after"]) > 0
        upload = await opened.client.post("/v1/adapters/poet/versions", files=opened.make_adapter().multipart())
        assert (upload.status_code, upload.json()["error"]["code"]) == (503, "engine_not_ready")


async def test_control_routes_answer_before_the_first_start(opening: Opening, base: BaseModel) -> None:
    async with opening(builder=FakeBuilder(base, knobs=Knobs(start_s=3600)), ready=False) as opened:
        assert (await opened.client.get("/v1/adapters")).json()["data"] == []
        assert (await opened.client.get("/ready")).json() == {"status": "starting"}
        assert (await opened.chat("sql")).status_code == 503


async def test_pinned_versions_are_resident_again_after_a_rebuild(
    opened: Opened, client: httpx.AsyncClient, until: Until
) -> None:
    await opened.publish("sql")
    assert (await client.post("/v1/adapters/sql/versions/1/pin")).status_code == 200
    opened.engine.die()
    await until(lambda: len(opened.builder.engines) == 2)
    await opened.until_ready()
    assert opened.engine.loads == ["sql@1"]
    assert await opened.answer("sql") == "sql@1"
    assert opened.engine.loads == ["sql@1"]


async def test_what_was_resident_is_resident_again_after_a_restart(
    opening: Opening, until: Until, data_dir: Path, base: BaseModel
) -> None:
    async with opening() as opened:
        for name in ("sql", "poet"):
            await opened.publish(name)
            await opened.answer(name)
        journal = data_dir / "residents.json"
        await until(lambda: journal.exists() and journal.read_text().count(",") == 1)
    async with opening() as reopened:
        assert reopened.residents == {"poet@1": ("resident", 0), "sql@1": ("resident", 0)}


async def test_one_damaged_blob_does_not_keep_the_others_from_being_served(opening: Opening, data_dir: Path) -> None:
    async with opening() as opened:
        for seed, name in enumerate(("sql", "poet")):
            digest = (await opened.publish(name, seed))["digest"]
            await opened.client.post(f"/v1/adapters/{name}/versions/1/pin")
        weights = data_dir / "sha256" / digest[:2] / digest / "adapter_model.safetensors"
        weights.chmod(0o644)
        weights.write_bytes(b"damaged")
    async with opening() as reopened:
        assert await reopened.answer("sql") == "sql@1"
        damaged = await reopened.chat("poet")
        assert (damaged.status_code, damaged.json()["error"]["code"]) == (424, "blob_corrupt")


async def test_a_version_made_for_another_base_is_not_loaded_into_this_one(opening: Opening, base: BaseModel) -> None:
    async with opening() as opened:
        await opened.publish("sql")
        await opened.client.post("/v1/adapters/sql/versions/1/pin")
    other = type(base)("other", "f" * 64, base.modules)
    async with opening(builder=FakeBuilder(other, served_names=("other",))) as reopened:
        assert reopened.engine.loads == []
        for response in (
            await reopened.chat("sql"),
            await reopened.client.post("/v1/adapters/sql/versions/1/load"),
            await reopened.client.post("/v1/adapters/sql/promote", json={"version": 1}),
        ):
            assert (response.status_code, response.json()["error"]["code"]) == (409, "wrong_base")
        assert reopened.engine.loads == []


async def test_an_empty_registry_gets_the_examples(opening: Opening, make_adapter: MakeAdapter, tmp_path: Path) -> None:
    examples = tmp_path / "examples"
    for seed, name in enumerate(("poet", "sql")):
        make_adapter(seed).write(examples / name)
    (examples / "no-adapter").mkdir()
    async with opening(bundled_adapters=examples) as opened:
        listed = (await opened.client.get("/v1/adapters")).json()["data"]
        assert [entry["name"] for entry in listed] == ["poet", "sql"]
        assert await opened.answer("poet") == "poet@1"
        await opened.client.delete("/v1/adapters/poet")
    async with opening(bundled_adapters=examples) as reopened:
        listed = (await reopened.client.get("/v1/adapters")).json()["data"]
        assert [entry["name"] for entry in listed] == ["sql"]


@on_both_databases
async def test_servers_that_start_at_once_register_an_example_once(
    opening: Opening, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    make_adapter().write(tmp_path / "examples" / "poet")
    both = asyncio.Barrier(2)
    async with opening() as one, opening() as two:
        checks = one.state.publisher.checks

        async def checked_at_once(source: Path, out: Path) -> Canonical:
            await both.wait()
            return await checks(source, out)

        publishers = [replace(each.state.publisher, checks=checked_at_once) for each in (one, two)]
        examples = tmp_path / "examples"
        await asyncio.gather(*(register_bundled_adapters(each.registry, each, examples) for each in publishers))
        listed = (await one.client.get("/v1/adapters/poet/versions")).json()["data"]
        assert [version["version"] for version in listed] == [1]


async def test_two_servers_live_in_one_process(opening: Opening, tmp_path: Path) -> None:
    async with opening() as one, opening(data_dir=tmp_path / "other") as two:
        await one.publish("sql")
        assert await one.answer("sql") == "sql@1"
        assert (await two.chat("sql")).status_code == 404


async def test_a_server_that_has_no_file_of_its_database_says_so(
    opening: Opening, tmp_path: Path, until: Until
) -> None:
    def count(lines: list[Any]) -> int:
        return sum("no version of this database has its files here" in line["event"] for line in lines)

    with capture_logs() as lines:
        async with opening() as one:
            await one.publish("sql")
            database_url = one.state.settings.database
        async with opening():
            assert count(lines) == 0
        async with opening(data_dir=tmp_path / "other", database_url=database_url) as other:
            await until(lambda: count(lines) == 1)
            refused = await other.chat("sql")
            assert (refused.status_code, refused.json()["error"]["code"]) == (424, "blob_corrupt")
            assert "--blob-url" in refused.json()["error"]["message"]


async def test_orphaned_blobs_are_swept(
    opening: Opening, data_dir: Path, until: Until, process_clock: ProcessClock
) -> None:
    def stored() -> set[str]:
        process_clock.advance(60)
        return {path.name for path in data_dir.glob("sha256/*/*")}

    async with opening(sweep_interval_s=0.01) as opened:
        orphan, kept = [(await opened.publish(name, seed))["digest"] for seed, name in enumerate(("a", "b"))]
        await opened.client.delete("/v1/adapters/a")
        await until(lambda: orphan not in stored())
        assert stored() == {kept}


async def test_what_a_crash_left_of_an_upload_is_swept(
    opening: Opening, data_dir: Path, until: Until, process_clock: ProcessClock
) -> None:
    def is_gone() -> bool:
        process_clock.advance(60)
        return not orphan.exists()

    orphan = data_dir / "training" / "files" / "file-orphan"
    orphan.parent.mkdir(parents=True)
    orphan.write_bytes(b"half")
    async with opening(sweep_interval_s=0.01):
        await until(is_gone)


async def test_what_a_crash_left_of_a_batch_is_swept_once_two_sweeps_have_seen_it(
    opened: Opened, process_clock: ProcessClock
) -> None:
    batches = opened.state.batches
    left = batches.directory / "batch_left"
    left.mkdir(parents=True)
    os.utime(left, (0, 0))  # as after a jump of the clock
    assert await batches.sweep(3600) == []
    process_clock.advance(3600)
    assert await batches.sweep(3600) == [left.name]
    assert not left.exists()


def test_nothing_that_trains_is_imported_by_the_process_that_serves() -> None:
    seen = "[name for name in ('torch', 'transformers', 'peft', 'trainer.methods') if name in sys.modules]"
    code = f"import sys, server.app, server.composition, server.process; print({seen})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


async def test_another_process_s_writes_arrive(opening: Opening, until: Until) -> None:
    async with opening(follow_interval_s=0.01) as one, opening(follow_interval_s=0.01) as two:
        await one.publish("sql")
        await until(lambda: "sql" in two.state.registry.catalog)
        assert await two.answer("sql") == "sql@1"


async def test_a_failing_background_loop_is_started_again() -> None:
    from server.background import background

    done, runs = asyncio.Event(), []

    async def loop() -> None:
        runs.append(1)
        if len(runs) == 1:
            raise RuntimeError
        done.set()

    async with background(loop=loop):
        await asyncio.wait_for(done.wait(), 5)
    assert len(runs) == 2


@pytest.mark.parametrize("content", ["", "{", '{"a": 1}', '["x"]', "[999]"])
async def test_an_unreadable_journal_costs_a_cold_start_and_no_more(
    opening: Opening, data_dir: Path, content: str
) -> None:
    data_dir.mkdir()
    (data_dir / "residents.json").write_text(content)
    async with opening() as opened:
        assert opened.residents == {}


async def test_a_server_that_had_keys_stays_closed_after_a_restart_without_them(
    opening: Opening, data_dir: Path, until: Until
) -> None:
    async with opening() as opened:
        assert (await opened.client.get("/v1/models")).status_code == 200
        await opened.state.keys.create("ops", [Scope.ADMIN])
        await until(lambda: (data_dir / HAD_KEYS).exists())
        async with opened.state.registry.database.write() as connection:
            await connection.execute(text("DELETE FROM api_keys"))
    async with opening() as opened:
        assert (await opened.client.get("/v1/models")).status_code == 401
        _, secret = await opened.state.keys.create("ops", [Scope.ADMIN])
        headers = {"Authorization": f"Bearer {secret}"}
        assert (await opened.client.get("/v1/models", headers=headers)).status_code == 200
