"""The probe of a publication: what it asks of the engine, and what it leaves there."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from adapters.base_model import BaseModel
from adapters.errors import AdapterRefused
from server.current_engine import CurrentEngine, EngineState, RunningEngine
from server.death_suspects import DeathSuspects
from server.engine.fake import FakeBuilder, FakeEngine, Knobs
from server.engine.protocol import EngineInfo, Resident
from server.errors import EngineNotReady
from server.metrics import EngineMetrics
from server.probe.probe import Probe, ReferenceScorer, prompts_for
from server.probe.reference import NoReference
from server.probe.verdict import ReferenceScores
from server.residency.capacity import Capacity, ProjectBytes
from server.residency.quarantine import Quarantine
from server.residency.residency import Residency
from server.scheduling.fair_scheduler import FairScheduler
from tests.server.opened import MakeAdapter


class Rig:
    """A probe of a fake engine, and how often that engine scored the base model."""

    def __init__(self, base: BaseModel, directory: Path) -> None:
        self.knobs = Knobs()
        self.builder = FakeBuilder(base, knobs=self.knobs)
        self.directory = directory
        self.engine = CurrentEngine()
        self.info = EngineInfo(base, ("base",), 16, directory)
        self.probe = Probe(self.engine, None)

    def compare_with(self, reference: ReferenceScorer) -> None:
        self.probe = Probe(self.engine, reference)

    def serve(self, engine: FakeEngine) -> None:
        async def locate(digest: str) -> Path:
            raise AssertionError(digest)

        metrics = EngineMetrics(CollectorRegistry())
        residency = Residency(
            engine,
            locate=locate,
            capacity=Capacity(2, 10**9, lambda _: ProjectBytes("default", None)),
            wait_s=1,
            is_pinned=lambda _: False,
            quarantined=Quarantine(),
            suspects=DeathSuspects(),
            metrics=metrics,
        )
        scheduler = FairScheduler(1, FakeEngine.batch, turn_s=0.0)
        self.engine.attach(RunningEngine(engine, residency, scheduler, self.info))
        if self.engine.state is EngineState.STARTING:
            self.engine.move_to(EngineState.READY)

    async def __call__(self, *, allow_inert: bool = False) -> Any:
        return await self.probe(self.directory, None, allow_inert=allow_inert)  # type: ignore[arg-type]


@pytest.fixture
async def engine(rig: Rig) -> AsyncIterator[FakeEngine]:
    async with rig.builder.start(None) as engine:  # type: ignore[arg-type]  # no request calls this engine's hooks
        rig.serve(engine)
        yield engine


@pytest.fixture
def rig(base: BaseModel, make_adapter: MakeAdapter, tmp_path: Path) -> Rig:
    return Rig(base, make_adapter().write(tmp_path / "adapter"))


async def test_a_good_adapter_is_measured_and_leaves_nothing(rig: Rig, engine: FakeEngine) -> None:
    verdict = await rig()
    assert verdict["prompts"] == 8
    assert verdict["tokens"] == sum(len(prompt) - 1 for prompt in prompts_for(engine))
    assert verdict["effect"] == {"mean": 0.25, "max": 0.25}
    assert (verdict["notes"], verdict["seconds"] >= 0) == ([], True)
    assert engine.residents == {}


async def test_each_probe_has_a_name_of_its_own(rig: Rig, engine: FakeEngine) -> None:
    await rig()
    await rig()
    assert len(set(engine.loads)) == 2


@pytest.mark.parametrize(("effect", "reason"), [(0.0, "base model's own scores"), (math.nan, "no finite")])
async def test_what_the_verdict_is_against_is_refused_and_leaves_nothing(
    rig: Rig, engine: FakeEngine, effect: float, reason: str
) -> None:
    rig.knobs.effect = effect
    with pytest.raises(AdapterRefused, match=reason):
        await rig()
    assert engine.residents == {}


async def test_an_inert_adapter_may_be_wanted(rig: Rig, engine: FakeEngine) -> None:
    rig.knobs.effect = 0.0
    verdict = await rig(allow_inert=True)
    assert verdict["notes"][0].startswith("inert")


async def test_a_base_without_probabilities_gets_a_trial_load(rig: Rig, engine: FakeEngine) -> None:
    rig.knobs.is_scoring = False
    verdict = await rig()
    assert (verdict["tokens"], verdict["effect"]) == (0, None)
    assert len(engine.loads) == 1
    assert engine.residents == {}


async def test_the_base_is_scored_once_in_an_engine_s_life(rig: Rig) -> None:
    class Counting(FakeEngine):
        of_base = 0

        async def score(self, resident: Resident | None, prompts: Sequence[Sequence[int]]) -> list[list[float]]:
            self.of_base += resident is None
            return await super().score(resident, prompts)

    for _ in range(2):
        engine = Counting(None, rig.knobs, ("base",))  # type: ignore[arg-type]
        rig.serve(engine)
        await rig()
        await rig()
        assert engine.of_base == 1


async def test_a_dead_engine_is_not_the_adapter_s_fault(rig: Rig, engine: FakeEngine) -> None:
    class Dying(FakeEngine):
        async def score(self, resident: Resident | None, prompts: Sequence[Sequence[int]]) -> list[list[float]]:
            self.die()
            return await super().score(resident, prompts)

    for dead in (Dying(None, rig.knobs, ("base",)), engine):  # type: ignore[arg-type]
        rig.serve(dead)
        engine.die()
        with pytest.raises(EngineNotReady):
            await rig()


async def test_bytes_that_two_engines_died_of_are_refused_and_others_are_not(
    rig: Rig, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    class Dying(FakeEngine):
        async def score(self, resident: Resident | None, prompts: Sequence[Sequence[int]]) -> list[list[float]]:
            self.die()
            return await super().score(resident, prompts)

    for _ in range(2):
        rig.serve(Dying(None, rig.knobs, ("base",)))  # type: ignore[arg-type]
        with pytest.raises(EngineNotReady):
            await rig()
    healthy = FakeEngine(None, rig.knobs, ("base",))  # type: ignore[arg-type]
    rig.serve(healthy)
    with pytest.raises(AdapterRefused, match="the engine died twice"):
        await rig()
    assert healthy.loads == []
    rig.directory = make_adapter(2).write(tmp_path / "other")
    assert (await rig())["prompts"] == 8


async def test_probes_wait_for_each_other_but_not_for_ever(rig: Rig) -> None:
    class Busy(FakeEngine):
        running = 0

        async def score(self, resident: Resident | None, prompts: Sequence[Sequence[int]]) -> list[list[float]]:
            self.running += 1
            assert self.running == 1
            await asyncio.Event().wait()
            raise AssertionError

    rig.probe = Probe(rig.engine, None, patience_s=0.01)
    busy = Busy(None, rig.knobs, ("base",))  # type: ignore[arg-type]
    rig.serve(busy)
    refused = await asyncio.gather(rig(), rig(), return_exceptions=True)
    assert [type(refusal) for refusal in refused] == [EngineNotReady] * 2
    assert busy.residents == {}


def test_the_prompts_are_the_same_for_ever() -> None:
    first, second = (prompts_for(FakeEngine(None, Knobs(), ("base",))) for _ in range(2))  # type: ignore[arg-type]
    assert first == second
    assert all(2 <= len(prompt) <= 20 for prompt in first)


async def test_an_adapter_is_compared_with_what_peft_makes_of_it(rig: Rig, engine: FakeEngine) -> None:
    class Agreeing:
        async def of(self, adapter: Path, prompts: Sequence[Sequence[int]]) -> ReferenceScores:
            assert adapter == rig.directory
            return ReferenceScores(*((await engine.score(None, prompts),) * 2))

    rig.compare_with(Agreeing())
    with pytest.raises(AdapterRefused, match="otherwise than PEFT"):
        await rig()
    rig.knobs.effect = -0.001
    assert (await rig())["reference"] == {
        "floor": {"mean": 0, "max": 0},
        "deviation": {"mean": 0.001, "max": 0.001},
        "limit": 0.01,
    }


async def test_an_adapter_that_nobody_can_compare_is_published_with_a_note(rig: Rig, engine: FakeEngine) -> None:
    class Gone:
        async def of(self, adapter: Path, prompts: Sequence[Sequence[int]]) -> ReferenceScores:
            raise NoReference("the process ended")

    rig.compare_with(Gone())
    verdict = await rig()
    assert (verdict["reference"], verdict["notes"]) == (None, ["not compared with PEFT: the process ended"])
