"""How the fake fails when a test turns its knobs."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from adapters.base_model import BaseModel
from server.engine.fake import FakeBuilder, FakeEngine, Knobs
from server.engine.protocol import EngineGone, LoadFailed
from tests.server.engine.conftest import MakeResident, RecordingHooks


async def test_a_dead_fake_loads_and_unloads_nothing(engine: FakeEngine, resident: MakeResident) -> None:
    engine.die()
    assert engine.is_dead
    with pytest.raises(EngineGone):
        await engine.load(resident())
    with pytest.raises(EngineGone):
        await engine.unload(resident())


async def test_a_dead_fake_answers_as_vllm_does(engine: FakeEngine, caller: httpx.AsyncClient) -> None:
    engine.die()
    response = await caller.post("/v1/chat/completions", json={"model": "base"})
    assert (response.status_code, response.json()["error"]["message"]) == (500, "EngineCore died")


async def test_a_fake_does_not_start_on_command(hooks: RecordingHooks, base: BaseModel) -> None:
    builder = FakeBuilder(base, knobs=Knobs(start_failures=1))
    with pytest.raises(RuntimeError):
        await builder.start(hooks).__aenter__()
    async with builder.start(hooks) as engine:
        assert not engine.is_dead
    assert engine.is_dead


async def test_a_fake_refuses_loads_on_command(engine: FakeEngine, knobs: Knobs, resident: MakeResident) -> None:
    knobs.load_errors["b@1"] = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        await engine.load(resident("b@1"))
    knobs.is_refusing_loads = True
    with pytest.raises(LoadFailed):
        await engine.load(resident("a@1"))
    assert engine.residents == {}


async def test_a_fake_s_loads_are_listed_in_order(engine: FakeEngine, resident: MakeResident) -> None:
    for name in ("b@1", "a@1"):
        await engine.load(resident(name))
    assert engine.loads == ["b@1", "a@1"]


async def test_a_stepped_load_waits_until_the_test_finishes_it(resident: MakeResident) -> None:
    engine = FakeEngine(RecordingHooks(), Knobs(is_stepped=True), ("base",))
    sql = resident()
    loading = asyncio.ensure_future(engine.load(sql))
    await asyncio.sleep(0.01)
    assert (loading.done(), engine.residents) == (False, {})
    engine.finish("load", sql.id)
    await loading
    assert engine.residents == {sql.id: sql}
