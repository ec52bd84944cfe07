"""Engines that start, die, are rebuilt, and are given up."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from server.engine.fake import FakeBuilder
from server.engine.protocol import StartRefused
from server.errors import EngineNotReady
from server.metrics import EngineMetrics
from server.residency.quarantine import Quarantine
from server.residency.residency import Residency
from server.scheduling.fair_scheduler import FairScheduler
from server.supervisor import EXIT_ENGINE, EXIT_REFUSED, EngineState, Supervisor


@pytest.fixture
def supervised(base: Any, collectors: Any, tmp_path: Path) -> Any:
    """Runs a supervisor of fake engines for the length of a block."""
    metrics = EngineMetrics(collectors)

    async def locate(digest: str) -> Path:
        return tmp_path

    def residency_of(engine: Any) -> Residency:
        return Residency(
            engine,
            locate=locate,
            capacity=4,
            max_bytes=10**9,
            wait_s=1,
            is_pinned=lambda version: False,
            quarantine=Quarantine(),
            metrics=metrics,
        )

    def scheduler_of(engine: Any) -> FairScheduler:
        return FairScheduler(engine.slots, engine.batch, turn_s=1.0)

    async def settle(serving: Any, _before: Any) -> None:
        return

    @asynccontextmanager
    async def running(builder: Any, **given: Any) -> AsyncIterator[Supervisor]:
        fields = {"settle": settle, "max_deaths": 3, "window_s": 60.0, "backoff_s": (0.0,), **given}
        supervisor = Supervisor(
            builder, object(), residency_of=residency_of, scheduler_of=scheduler_of, metrics=metrics, **fields
        )
        task = asyncio.create_task(supervisor.run())
        try:
            yield supervisor
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    return running


async def test_a_started_engine_serves(supervised: Any, base: Any, until: Any, collectors: Any) -> None:
    builder = FakeBuilder(base)
    async with supervised(builder) as supervisor:
        assert (supervisor.state, supervisor.info) == (EngineState.STARTING, None)
        with pytest.raises(EngineNotReady, match="starting"):
            supervisor.serving()
        await until(lambda: supervisor.is_ready)
        assert supervisor.serving().engine is builder.engines[0]
        assert supervisor.info.served_names == ("base",)
        assert collectors.get_sample_value("patchbay_engine_ready") == 1
        assert collectors.get_sample_value("patchbay_slots") == 4


async def test_a_death_shows_at_once_and_another_engine_takes_over(
    supervised: Any, base: Any, until: Any, collectors: Any
) -> None:
    builder = FakeBuilder(base)
    async with supervised(builder) as supervisor:
        await until(lambda: supervisor.is_ready)
        builder.engines[0].die()
        assert not supervisor.is_ready
        with pytest.raises(EngineNotReady, match="rebuilding") as refused:
            supervisor.serving()
        assert refused.value.retry_after_s > 0
        await until(lambda: supervisor.is_ready)
        assert supervisor.serving().engine is builder.engines[1]
        assert collectors.get_sample_value("patchbay_engine_rebuilds_total") == 1
        assert collectors.get_sample_value("patchbay_engine_ready") == 1


async def test_it_is_not_ready_before_it_has_settled(supervised: Any, base: Any, until: Any) -> None:
    may_end, seen = asyncio.Event(), []

    async def settle(serving: Any, _before: Any) -> None:
        seen.append(serving)
        await may_end.wait()

    async with supervised(FakeBuilder(base), settle=settle) as supervisor:
        await until(lambda: bool(seen))
        assert not supervisor.is_ready
        assert supervisor.running() is seen[0]
        may_end.set()
        await until(lambda: supervisor.is_ready)


async def test_an_engine_that_dies_while_it_settles_is_replaced(supervised: Any, base: Any, until: Any) -> None:
    builder = FakeBuilder(base)

    async def settle(serving: Any, _before: Any) -> None:
        if len(builder.engines) == 1:
            serving.engine.die()

    async with supervised(builder, settle=settle) as supervisor:
        await until(lambda: supervisor.is_ready)
        assert len(builder.engines) == 2


async def test_failed_starts_are_tried_again_with_longer_and_longer_waits(
    supervised: Any, base: Any, until: Any
) -> None:
    builder = FakeBuilder(base)
    builder.knobs.start_failures = 2
    asked: list[int] = []

    class Waits(tuple[float, ...]):
        def __getitem__(self, index: Any) -> Any:
            asked.append(index)
            return super().__getitem__(index)

    async with supervised(builder, max_deaths=9, backoff_s=Waits((0.0, 0.0, 0.0))) as supervisor:
        await until(lambda: supervisor.is_ready)
        assert asked == [0, 1, 2]
        for expected in (2, 2):
            builder.engines[-1].die()
            count = len(builder.engines)
            await until(lambda: len(builder.engines) > count and supervisor.is_ready)  # noqa: B023
            assert asked[-1] == expected  # the last wait stays


async def test_an_engine_that_served_long_enough_starts_the_waits_anew(supervised: Any, base: Any, until: Any) -> None:
    builder = FakeBuilder(base)
    async with supervised(builder, window_s=0.0, backoff_s=(0.0, 3600.0)) as supervisor:
        for number in range(1, 4):
            await until(lambda: supervisor.is_ready and len(builder.engines) == number)  # noqa: B023
            builder.engines[-1].die()


async def test_too_many_deaths_end_it_with_an_exit_code_for_the_service_manager(
    supervised: Any, base: Any, until: Any
) -> None:
    builder = FakeBuilder(base)
    async with supervised(builder, max_deaths=3) as supervisor:
        for number in itertools.count(1):
            await until(lambda: supervisor.failed.is_set() or (supervisor.is_ready and len(builder.engines) == number))  # noqa: B023
            if supervisor.failed.is_set():
                break
            builder.engines[-1].die()
        assert (supervisor.state, supervisor.exit_code) == (EngineState.FAILED, EXIT_ENGINE)
        assert EXIT_ENGINE == 70
        assert len(builder.engines) == 3
        with pytest.raises(EngineNotReady, match="failed"):
            supervisor.serving()


async def test_a_start_that_can_never_succeed_is_not_tried_twice(supervised: Any, base: Any) -> None:
    class Refusing(FakeBuilder):
        asked = 0

        async def info(self) -> Any:
            type(self).asked += 1
            raise StartRefused("no such model")

    async with supervised(Refusing(base)) as supervisor:
        await asyncio.wait_for(supervisor.failed.wait(), 5)
        assert (supervisor.state, supervisor.exit_code, Refusing.asked) == (EngineState.FAILED, EXIT_REFUSED, 1)
        assert EXIT_REFUSED == 2


async def test_stopping_stops_the_engine(supervised: Any, base: Any, until: Any) -> None:
    builder = FakeBuilder(base)
    async with supervised(builder) as supervisor:
        await until(lambda: supervisor.is_ready)
        assert not builder.engines[0].is_dead
    assert builder.engines[0].is_dead
