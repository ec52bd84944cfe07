"""An engine to hold to the contract, and adapters it can load."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from adapters.errors import AdapterNotFound
from server.engine.engine import Engine, Generation, Resident
from server.engine.fake import FakeBuilder


@dataclass
class OpenGate:
    """A gate that answers with the residents a test put there, and notes what it is asked."""

    residents: dict[str, Resident] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    generations: list[tuple[Resident | None, Generation]] = field(default_factory=list)
    running: int = 0

    async def choose(self, model: str) -> Resident:
        self.asked.append(model)
        if model not in self.residents:
            raise AdapterNotFound(f"no {model}", param="model")
        return self.residents[model]

    def chosen(self, model: str) -> Resident | None:
        return self.residents.get(model) if model in self.asked else None

    @asynccontextmanager
    async def generation(self, resident: Resident | None) -> AsyncIterator[Generation]:
        generation = Generation()
        self.generations.append((resident, generation))
        self.running += 1
        try:
            yield generation
        finally:
            self.running -= 1


@pytest.fixture
def gate() -> OpenGate:
    return OpenGate()


@pytest.fixture
async def engine(gate: OpenGate, base: Any) -> AsyncIterator[Engine]:
    """The engine under contract; the acceptance tests put the real one here."""
    async with FakeBuilder(base).start(gate) as engine:
        yield engine


@pytest.fixture
def base_name() -> str:
    return "base"


@pytest.fixture
def resident(tmp_path: Path, make_adapter: Callable[..., Any]) -> Callable[..., Resident]:
    """Makes an adapter that the engine under contract can load; ids are never used twice."""
    ids = itertools.count(1)

    def make(name: str = "sql@1") -> Resident:
        number = next(ids)
        return Resident(number, name, make_adapter(number).write(tmp_path / str(number)))

    return make


@pytest.fixture
def broken_resident(tmp_path: Path) -> Resident:
    """An adapter that the engine under contract refuses."""
    (tmp_path / "broken").mkdir()
    return Resident(999, "broken@1", tmp_path / "broken")


@pytest.fixture
async def caller(engine: Engine) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(engine.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://engine", timeout=60) as client:
        yield client
