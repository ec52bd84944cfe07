"""An engine to hold to the contract, and adapters it can load."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import load_file, save_file

import embedded
from adapters.errors import AdapterNotFound
from server.engine.fake import FakeBuilder, Knobs
from server.engine.protocol import ComputedNaN, Demand, Engine, Generation, Resident
from server.engine.vllm.builder import VllmBuilder
from server.engine.vllm.flags import EMBEDDED_FLAGS


@dataclass
class OpenGate:
    """A gate that answers with the residents a test put there, and notes what it is asked."""

    residents: dict[str, Resident] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    generations: list[tuple[Resident | None, Generation]] = field(default_factory=list)
    broken: list[Resident | None] = field(default_factory=list)
    running: int = 0
    demands: list[Demand] = field(default_factory=list)
    read: list[Demand] = field(default_factory=list)
    """Those whose prompts were read."""

    async def choose(self, model: str) -> Resident:
        self.asked.append(model)
        if model not in self.residents:
            raise AdapterNotFound(f"no {model}", param="model")
        return self.residents[model]

    def chosen(self, model: str) -> Resident | None:
        return self.residents.get(model) if model in self.asked else None

    @asynccontextmanager
    async def generation(self, resident: Resident | None, demand: Demand) -> AsyncIterator[Generation]:
        generation = Generation(prompt_is_read=lambda: self.read.append(demand))
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


class CurrentGate:
    """The gate of an engine that outlives a test: whatever gate the test of the moment has."""

    def __init__(self) -> None:
        self.now = OpenGate()

    async def choose(self, model: str) -> Resident:
        return await self.now.choose(model)

    def chosen(self, model: str) -> Resident | None:
        return self.now.chosen(model)

    def generation(self, resident: Resident | None, demand: Demand) -> AbstractAsyncContextManager[Generation]:
        return self.now.generation(resident, demand)


@pytest.fixture
def hooks() -> OpenGate:
    return OpenGate()


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    """Which engine is held to the contract: the fake, or as ``--engine`` says."""
    return str(request.config.getoption("--engine"))


@pytest.fixture(scope="session")
async def vllm_engine() -> AsyncIterator[tuple[Engine, CurrentGate]]:
    """The real engine on the embedded base, in this process, started once."""
    hooks = CurrentGate()
    flags = (*EMBEDDED_FLAGS, "--kv-cache-memory-bytes", str(16 * 2**20))  # 64 blocks: soon used again
    async with VllmBuilder(str(embedded.BASE), flags, capacity=4).start(hooks) as engine:
        yield engine, hooks


@pytest.fixture
def knobs() -> Knobs:
    """How the fake of this test misbehaves."""
    return Knobs()


@pytest.fixture
async def fake_engine(hooks: OpenGate, base: Any, knobs: Knobs) -> AsyncIterator[Engine]:
    async with FakeBuilder(base, knobs=knobs).start(hooks) as engine:
        yield engine


@pytest.fixture
def engine(kind: str, hooks: OpenGate, request: pytest.FixtureRequest) -> Engine:
    """The engine under contract."""
    if kind == "fake":
        fake: Engine = request.getfixturevalue("fake_engine")
        return fake
    vllm, current = request.getfixturevalue("vllm_engine")
    current.now = hooks
    real: Engine = vllm
    return real


@pytest.fixture
def base_name(kind: str) -> str:
    return {"fake": "base", "vllm": "embedded-base"}[kind]


@pytest.fixture(scope="session")
def ids() -> Iterator[int]:
    """Ids of residents, never used twice in an engine's life."""
    return itertools.count(1)


@pytest.fixture
def resident(
    kind: str, ids: Iterator[int], tmp_path: Path, make_adapter: Callable[..., Any]
) -> Callable[..., Resident]:
    """Makes an adapter that the engine under contract can load."""

    def make(name: str = "sql@1") -> Resident:
        number = next(ids)
        path = tmp_path / str(number)
        if kind == "fake":
            return Resident(number, name, make_adapter(number).write(path))
        return Resident(number, name, Path(shutil.copytree(embedded.ADAPTERS / "sql", path)))

    return make


@pytest.fixture
def sick_resident(kind: str, engine: Engine, knobs: Knobs, resident: Callable[..., Resident]) -> Resident:
    """An adapter that loads and breaks the model's arithmetic: its weights are NaN, which no door would let in."""
    sick = resident("sick@1")
    if kind == "fake":
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
    transport = httpx.ASGITransport(engine.app, raise_app_exceptions=False)  # as over TCP: what it answered counts
    async with httpx.AsyncClient(transport=transport, base_url="http://engine", timeout=60) as client:
        yield client
