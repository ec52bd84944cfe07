"""How the fake misbehaves when it is told to."""

from __future__ import annotations

from typing import Any

import pytest

from server.engine.fake import FakeBuilder, Knobs
from server.engine.protocol import EngineGone, LoadFailed


async def test_a_dead_fake_loads_and_unloads_nothing(engine: Any, resident: Any) -> None:
    engine.die()
    assert engine.is_dead
    with pytest.raises(EngineGone):
        await engine.load(resident())
    with pytest.raises(EngineGone):
        await engine.unload(resident())


async def test_a_dead_fake_answers_as_vllm_does(engine: Any, caller: Any) -> None:
    engine.die()
    response = await caller.post("/v1/chat/completions", json={"model": "base"})
    assert (response.status_code, response.json()["error"]["message"]) == (500, "EngineCore died")


async def test_a_fake_refuses_and_fails_on_command(hooks: Any, base: Any, resident: Any) -> None:
    builder = FakeBuilder(base, knobs=Knobs(start_failures=1, is_refusing_loads=True))
    with pytest.raises(RuntimeError):
        await builder.start(hooks).__aenter__()
    async with builder.start(hooks) as engine:
        with pytest.raises(LoadFailed):
            await engine.load(resident())
        assert engine.loads == []
    assert engine.is_dead


async def test_a_fake_s_loads_are_listed_in_order(engine: Any, resident: Any) -> None:
    for name in ("b@1", "a@1"):
        await engine.load(resident(name))
    assert engine.loads == ["b@1", "a@1"]
