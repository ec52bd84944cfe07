"""An engine for the contract suite, and adapters that it can load."""

from __future__ import annotations

import asyncio
import itertools
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx
import pytest
import torch
from safetensors.torch import load_file, save_file

import embedded
from adapters.base_model import BaseModel
from adapters.errors import AdapterNotFound, PatchbayError
from server.engine.fake import FakeBuilder, FakeEngine, Knobs
from server.engine.protocol import ComputedNaN, Demand, Engine, Generation, Resident
from server.engine.vllm.builder import VllmBuilder
from server.engine.vllm.engine import VllmEngine
from server.engine.vllm.flags import EMBEDDED_FLAGS
from tests.server.opened import AdapterFiles


@dataclass
class RecordingHooks:
    """Hooks that resolve to the residents of a test and record each call."""

    residents: dict[str, Resident] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    generations: list[tuple[Resident | None, Generation]] = field(default_factory=list)
    broken: list[Resident | None] = field(default_factory=list)
    running: int = 0
    demands: list[Demand] = field(default_factory=list)
    read: list[Demand] = field(default_factory=list)
    """Those whose first output came."""
    bodies: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    replaced: dict[str, Any] = field(default_factory=dict)
    """Fields that every body gets."""
    refused: PatchbayError | None = None
    """What every body is refused with."""
    cache_scope: str | None = None
    """That of each generation."""

    def prepare_body(self, path: str, body: dict[str, Any]) -> None:
        self.bodies.append((path, dict(body)))
        body.update(self.replaced)
        if self.refused is not None:
            raise self.refused

    async def resolve(self, model: str) -> Resident:
        self.asked.append(model)
        if model not in self.residents:
            raise AdapterNotFound(f"no {model}", param="model")
        return self.residents[model]

    def resolved(self, model: str) -> Resident | None:
        return self.residents.get(model) if model in self.asked else None

    @asynccontextmanager
    async def generation(self, resident: Resident | None, demand: Demand) -> AsyncIterator[Generation]:
        generation = Generation(on_first_output=lambda: self.read.append(demand), cache_scope=self.cache_scope)
        self.generations.append((resident, generation))
        self.demands.append(demand)
        self.running += 1
        try:
            yield generation
        except ComputedNaN as broken:
            self.broken.append(resident)
            raise AdapterNotFound("broken") from broken
        finally:
            self.running -= 1


class CurrentHooks:
    """The hooks of an engine that outlives a test: calls go to the hooks of the running test."""

    def __init__(self) -> None:
        self.now = RecordingHooks()

    def prepare_body(self, path: str, body: dict[str, Any]) -> None:
        self.now.prepare_body(path, body)

    async def resolve(self, model: str) -> Resident:
        return await self.now.resolve(model)

    def resolved(self, model: str) -> Resident | None:
        return self.now.resolved(model)

    def generation(self, resident: Resident | None, demand: Demand) -> AbstractAsyncContextManager[Generation]:
        return self.now.generation(resident, demand)


class MakeResident(Protocol):
    """Makes an adapter that the engine under contract can load."""

    def __call__(self, name: str = "sql@1") -> Resident: ...


LoadedIds = Callable[[], Awaitable[set[int]]]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the contract with the fake, in one step and stepped, or with the engine that ``--engine`` names."""
    if "engine_kind" in metafunc.fixturenames:
        name = str(metafunc.config.getoption("--engine"))
        metafunc.parametrize("engine_kind", ["fake", "stepped fake"] if name == "fake" else [name])


@pytest.fixture
def hooks() -> RecordingHooks:
    return RecordingHooks()


@pytest.fixture(scope="session")
async def vllm_engine() -> AsyncIterator[tuple[VllmEngine, CurrentHooks]]:
    """The real engine on the embedded base, in this process, started once."""
    hooks = CurrentHooks()
    flags = (*EMBEDDED_FLAGS, "--kv-cache-memory-bytes", str(16 * 2**20))  # 64 blocks: soon used again
    async with VllmBuilder(str(embedded.BASE), flags, capacity=4).start(hooks) as engine:
        yield engine, hooks


@pytest.fixture
def knobs(engine_kind: str) -> Knobs:
    """How the fake of this test behaves."""
    return Knobs(is_stepped=engine_kind == "stepped fake")


@pytest.fixture
async def fake_engine(hooks: RecordingHooks, base: BaseModel, knobs: Knobs) -> AsyncIterator[FakeEngine]:
    """A fake whose calls, where they are stepped, go on in the next turn of the event loop."""

    async def finish_calls(engine: FakeEngine) -> None:
        while True:
            engine.finish_all()
            await asyncio.sleep(0)

    async with FakeBuilder(base, knobs=knobs).start(hooks) as engine:
        finishing = asyncio.ensure_future(finish_calls(engine))
        yield engine
        finishing.cancel()


@pytest.fixture
def engine(engine_kind: str, hooks: RecordingHooks, request: pytest.FixtureRequest) -> Engine:
    """The engine under contract."""
    if engine_kind != "vllm":
        fake: FakeEngine = request.getfixturevalue("fake_engine")
        return fake
    vllm: tuple[VllmEngine, CurrentHooks] = request.getfixturevalue("vllm_engine")
    vllm[1].now = hooks
    return vllm[0]


@pytest.fixture
def loaded(engine: Engine) -> LoadedIds:
    """Returns the ids of the adapters that the engine has loaded."""

    async def ids() -> set[int]:
        if isinstance(engine, FakeEngine):
            return set(engine.residents)
        assert isinstance(engine, VllmEngine)
        return set(await engine._client.list_loras())

    return ids


@pytest.fixture
def base_name(engine_kind: str) -> str:
    return "embedded-base" if engine_kind == "vllm" else "base"


@pytest.fixture(scope="session")
def ids() -> Iterator[int]:
    """Ids of residents, never used twice in an engine's life."""
    return itertools.count(1)


@pytest.fixture
def resident(
    engine_kind: str, ids: Iterator[int], tmp_path: Path, make_adapter: Callable[..., AdapterFiles]
) -> MakeResident:
    """Makes an adapter that the engine under contract can load."""

    def make(name: str = "sql@1") -> Resident:
        number = next(ids)
        path = tmp_path / str(number)
        if engine_kind != "vllm":
            return Resident(number, name, make_adapter(number).write(path))
        return Resident(number, name, Path(shutil.copytree(embedded.ADAPTERS / "sql", path)))

    return make


@pytest.fixture
def sick_resident(engine_kind: str, engine: Engine, knobs: Knobs, resident: MakeResident) -> Resident:
    """An adapter that loads and makes the model compute NaN: its weights are NaN, which the checks refuse."""
    sick = resident("sick@1")
    if engine_kind != "vllm":
        knobs.effect = float("nan")
    else:
        weights = sick.path / "adapter_model.safetensors"
        save_file({name: torch.full_like(t, torch.nan) for name, t in load_file(weights).items()}, weights)
    return sick


@pytest.fixture
def broken_resident(ids: Iterator[int], tmp_path: Path) -> Resident:
    """An adapter that the engine under contract refuses."""
    (tmp_path / "broken").mkdir()
    return Resident(next(ids), "broken@1", tmp_path / "broken")


@pytest.fixture
async def caller(engine: Engine) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(engine.app, raise_app_exceptions=False)  # as over TCP: only the response counts
    async with httpx.AsyncClient(transport=transport, base_url="http://engine", timeout=60) as client:
        yield client
