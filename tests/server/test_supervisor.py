"""Engines that start, die, are rebuilt, and are given up."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from adapters.base_model import BaseModel
from server.current_engine import CurrentEngine, EngineState, RunningEngine
from server.death_suspects import DeathSuspects
from server.engine.fake import FakeBuilder, FakeEngine
from server.engine.protocol import Engine, StartFailed, StartRefused
from server.errors import EngineNotReady
from server.metrics import EngineMetrics
from server.residency.capacity import Capacity, ProjectBytes
from server.residency.quarantine import Quarantine
from server.residency.residency import Residency
from server.scheduling.fair_scheduler import FairScheduler
from server.supervisor import EXIT_ENGINE, EXIT_REFUSED, Supervisor
from tests.until import Until


class SupervisedRun(NamedTuple):
    """A supervisor that runs, and the engine it runs."""

    supervisor: Supervisor
    current: CurrentEngine


Supervised = Callable[..., AbstractAsyncContextManager[SupervisedRun]]
"""Takes a builder and the supervisor's options."""


@pytest.fixture
def supervised(base: BaseModel, collectors: CollectorRegistry, tmp_path: Path) -> Supervised:
    """Runs a supervisor of fake engines for the length of a block."""
    metrics = EngineMetrics(collectors)

    async def locate(digest: str) -> Path:
        return tmp_path

    def make_residency(engine: Engine) -> Residency:
        return Residency(
            engine,
            locate=locate,
            capacity=Capacity(4, 10**9, lambda _: ProjectBytes("default", None)),
            wait_s=1,
            is_pinned=lambda version: False,
            quarantined=Quarantine(),
            suspects=DeathSuspects(),
            metrics=metrics,
        )

    def make_scheduler(engine: Engine) -> FairScheduler:
        return FairScheduler(engine.slots, engine.batch, turn_s=1.0)

    async def after_start(running: RunningEngine, _last_residents: object) -> None:
        return

    @asynccontextmanager
    async def running(builder: FakeBuilder, **options: Any) -> AsyncIterator[SupervisedRun]:
        fields = {"after_start": after_start, "max_deaths": 3, "window_s": 60.0, "backoff_s": (0.0,), **options}
        current = CurrentEngine()
        supervisor = Supervisor(
            builder,
            object(),
            current,
            make_residency=make_residency,
            make_scheduler=make_scheduler,
            metrics=metrics,
            **fields,
        )
        task = asyncio.create_task(supervisor.run())
        try:
            yield SupervisedRun(supervisor, current)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    return running


async def test_a_started_engine_serves(
    supervised: Supervised, base: BaseModel, until: Until, collectors: CollectorRegistry
) -> None:
    builder = FakeBuilder(base)
    async with supervised(builder) as run:
        assert (run.current.state, run.current.served_names) == (EngineState.STARTING, ())
        with pytest.raises(EngineNotReady, match="starting"):
            run.current.serving()
        await until(lambda: run.current.is_ready)
        assert run.current.serving().engine is builder.engines[0]
        assert run.current.info.served_names == ("base",)
        assert collectors.get_sample_value("patchbay_engine_ready") == 1
        assert collectors.get_sample_value("patchbay_slots") == 4


async def test_a_death_shows_at_once_and_another_engine_takes_over(
    supervised: Supervised, base: BaseModel, until: Until, collectors: CollectorRegistry
) -> None:
    builder = FakeBuilder(base)
    async with supervised(builder) as run:
        await until(lambda: run.current.is_ready)
        builder.engines[0].die()
        assert not run.current.is_ready
        with pytest.raises(EngineNotReady, match="rebuilding") as refused:
            run.current.serving()
        assert refused.value.retry_after_s > 0
        await until(lambda: run.current.is_ready)
        assert run.current.serving().engine is builder.engines[1]
        assert collectors.get_sample_value("patchbay_engine_rebuilds_total") == 1
        assert collectors.get_sample_value("patchbay_engine_ready") == 1


async def test_it_is_not_ready_before_it_warmed_up(supervised: Supervised, base: BaseModel, until: Until) -> None:
    may_end, seen = asyncio.Event(), []

    async def after_start(running: RunningEngine, _last_residents: object) -> None:
        seen.append(running)
        await may_end.wait()

    async with supervised(FakeBuilder(base), after_start=after_start) as run:
        await until(lambda: bool(seen))
        assert not run.current.is_ready
        assert run.current.running() is seen[0]
        may_end.set()
        await until(lambda: run.current.is_ready)


async def test_an_engine_that_dies_while_it_warms_up_is_replaced(
    supervised: Supervised, base: BaseModel, until: Until
) -> None:
    builder = FakeBuilder(base)

    async def after_start(running: RunningEngine, _last_residents: object) -> None:
        if len(builder.engines) == 1:
            running.engine.die()

    async with supervised(builder, after_start=after_start) as run:
        await until(lambda: run.current.is_ready)
        assert len(builder.engines) == 2


async def test_failed_starts_are_tried_again_with_longer_and_longer_waits(
    supervised: Supervised, base: BaseModel, until: Until
) -> None:
    builder = FakeBuilder(base)
    builder.knobs.start_failures = 2
    asked: list[int] = []

    class Waits(tuple[float, ...]):
        def __getitem__(self, index: Any) -> Any:
            asked.append(index)
            return super().__getitem__(index)

    async with supervised(builder, max_deaths=9, backoff_s=Waits((0.0, 0.0, 0.0))) as run:
        await until(lambda: run.current.is_ready)
        assert asked == [0, 1, 2]
        for expected in (2, 2):
            builder.engines[-1].die()
            count = len(builder.engines)
            await until(lambda: len(builder.engines) > count and run.current.is_ready)  # noqa: B023
            assert asked[-1] == expected  # the last wait stays


async def test_an_engine_that_served_long_enough_starts_the_waits_anew(
    supervised: Supervised, base: BaseModel, until: Until
) -> None:
    builder = FakeBuilder(base)
    async with supervised(builder, window_s=0.0, backoff_s=(0.0, 3600.0)) as run:
        for number in range(1, 4):
            await until(lambda: run.current.is_ready and len(builder.engines) == number)  # noqa: B023
            builder.engines[-1].die()


async def test_too_many_deaths_end_it_with_an_exit_code_for_the_service_manager(
    supervised: Supervised, base: BaseModel, until: Until
) -> None:
    builder = FakeBuilder(base)
    async with supervised(builder, max_deaths=3) as run:
        for number in itertools.count(1):
            await until(
                lambda: run.supervisor.failed.is_set() or (run.current.is_ready and len(builder.engines) == number)  # noqa: B023
            )
            if run.supervisor.failed.is_set():
                break
            builder.engines[-1].die()
        assert (run.current.state, run.supervisor.exit_code) == (EngineState.FAILED, EXIT_ENGINE)
        assert EXIT_ENGINE == 70
        assert len(builder.engines) == 3
        with pytest.raises(EngineNotReady, match="failed"):
            run.current.serving()


async def test_a_start_that_can_never_succeed_is_not_tried_twice(supervised: Supervised, base: BaseModel) -> None:
    class Refusing(FakeBuilder):
        asked = 0

        async def info(self) -> Any:
            type(self).asked += 1
            raise StartRefused("no such model")

    async with supervised(Refusing(base)) as run:
        await asyncio.wait_for(run.supervisor.failed.wait(), 5)
        assert (run.current.state, run.supervisor.exit_code, Refusing.asked) == (EngineState.FAILED, EXIT_REFUSED, 1)
        assert EXIT_REFUSED == 2


async def test_a_start_that_failed_is_logged_with_its_cause_and_tried_again(
    supervised: Supervised, base: BaseModel, until: Until
) -> None:
    class FailingOnce(FakeBuilder):
        has_failed = False

        @asynccontextmanager
        async def start(self, hooks: Any) -> AsyncIterator[Any]:
            if not self.has_failed:
                self.has_failed = True
                raise StartFailed("the address is in use")
            async with super().start(hooks) as engine:
                yield engine

    with capture_logs() as logged:
        async with supervised(FailingOnce(base)) as run:
            await until(lambda: run.current.is_ready)
            await asyncio.wait_for(run.current.first_ready(), 5)
    failed = next(event for event in logged if event["event"] == "engine failed to start")
    assert failed["reason"] == "the address is in use"
    assert "exc_info" not in failed


async def test_stopping_stops_the_engine(supervised: Supervised, base: BaseModel, until: Until) -> None:
    builder = FakeBuilder(base)
    async with supervised(builder) as run:
        await until(lambda: run.current.is_ready)
        assert not builder.engines[0].is_dead
    assert builder.engines[0].is_dead


async def test_an_engine_that_hangs_is_killed_and_rebuilt(
    base: BaseModel, supervised: Supervised, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is alive and answers nothing, as a stopped process."""
    monkeypatch.setattr("server.supervisor.HEARTBEAT_S", 0.01)
    builder = FakeBuilder(base)
    async with supervised(builder, stall_s=0.05) as (_, current):
        await until(lambda: current.state is EngineState.READY)
        builder.knobs.is_hanging = True
        await until(lambda: builder.engines[0].is_dead)
        builder.knobs.is_hanging = False
        await until(lambda: len(builder.engines) > 1 and current.state is EngineState.READY)
        assert not builder.engines[-1].is_dead


async def test_an_engine_that_does_not_answer_for_a_while_is_silent_until_it_does(
    base: BaseModel, supervised: Supervised, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.supervisor.HEARTBEAT_S", 0.01)
    monkeypatch.setattr("server.supervisor.SILENT_SHARE", 0.00001)
    answered, slow = asyncio.Event(), FakeBuilder(base)

    async def late(_: FakeEngine) -> None:
        await answered.wait()

    async with supervised(slow, stall_s=600.0) as (_, current):
        await until(lambda: current.state is EngineState.READY)
        assert not current.is_silent
        monkeypatch.setattr(FakeEngine, "ping", late)
        await until(lambda: current.is_silent)
        assert not slow.engines[0].is_dead
        answered.set()
        await until(lambda: not current.is_silent)


async def test_an_engine_that_hangs_while_it_is_warmed_up_is_killed_too(
    base: BaseModel, supervised: Supervised, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.supervisor.HEARTBEAT_S", 0.01)
    builder = FakeBuilder(base)

    async def hang_once(running: RunningEngine, _last_residents: object) -> None:
        if len(builder.engines) == 1:
            builder.knobs.is_hanging = True
            await until(lambda: builder.engines[0].is_dead)
            builder.knobs.is_hanging = False
            raise StartFailed("its adapters cannot be loaded")

    async with supervised(builder, stall_s=0.05, after_start=hang_once) as (_, current):
        await until(lambda: len(builder.engines) > 1 and current.state is EngineState.READY)
