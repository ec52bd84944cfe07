"""Residencies over an engine whose loads and unloads end when the test says so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from adapters.errors import BlobCorrupt
from adapters.versions import Version
from server.engine.protocol import EngineGone, LoadFailed, Resident
from server.metrics import EngineMetrics
from server.residency.quarantine import Quarantine
from server.residency.residency import Lease, Residency


@dataclass
class SteppedEngine:
    """Keeps what it is asked to do pending until ``finish``; ``is_prompt`` makes it do everything at once."""

    is_prompt: bool = True
    is_dead: bool = False
    held: set[int] = field(default_factory=set)
    pending: dict[tuple[str, int], asyncio.Future[None]] = field(default_factory=dict)
    loads: list[str] = field(default_factory=list)
    unloads: list[str] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    bugs: set[str] = field(default_factory=set)
    """Names at which it fails as no engine should."""
    before_unload: Callable[[Resident], None] = lambda resident: None
    slots: int = 4
    paths: frozenset[str] = frozenset()

    @property
    def app(self) -> Any:
        raise NotImplementedError

    async def load(self, resident: Resident) -> None:
        assert resident.id not in self.held, f"{resident.name} is loaded twice"
        self.loads.append(resident.name)
        await self._pend("load", resident.id)
        if resident.name in self.refused:
            raise LoadFailed("spoiled")
        if resident.name in self.bugs:
            raise ZeroDivisionError
        self.held.add(resident.id)

    async def unload(self, resident: Resident) -> None:
        self.before_unload(resident)
        self.unloads.append(resident.name)
        await self._pend("unload", resident.id)
        self.held.discard(resident.id)

    async def loaded(self) -> frozenset[int]:
        return frozenset(self.held)

    async def _pend(self, act: str, number: int) -> None:
        if not self.is_prompt:
            assert (act, number) not in self.pending
            future = self.pending[act, number] = asyncio.get_running_loop().create_future()
            try:
                await future
            finally:
                del self.pending[act, number]
        if self.is_dead:
            raise EngineGone("died")

    def finish(self, act: str, number: int) -> None:
        self.pending[act, number].set_result(None)

    def finish_all(self) -> None:
        for future in self.pending.values():
            if not future.done():
                future.set_result(None)

    def die(self) -> None:
        self.is_dead = True
        self.finish_all()


@dataclass
class Rig:
    """A residency with everything that a test turns."""

    engine: SteppedEngine
    residency: Residency
    metrics: EngineMetrics
    pins: set[int]
    corrupt: set[str]
    collectors: CollectorRegistry

    def begin(self, version: Version) -> asyncio.Task[Lease]:
        return asyncio.ensure_future(self.residency.lease(version))

    async def touch(self, *versions: Version) -> None:
        """Lease each and give it back."""
        for version in versions:
            (await self.residency.lease(version)).release()

    @property
    def states(self) -> dict[str, str]:
        return {view.version.name: str(view.state) for view in self.residency.views()}

    def count(self, name: str) -> float:
        value = self.collectors.get_sample_value(name)
        assert value is not None
        return value


async def settle() -> None:
    """Let every task run until it waits for something from outside."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture(name="settle")
def settle_() -> Any:
    return settle


@pytest.fixture
def version() -> Callable[..., Version]:
    """Makes version ``number`` (which is its id too) of an adapter."""

    def make(number: int, adapter: str = "sql", size_bytes: int = 1000) -> Version:
        return Version(number, adapter, number, f"{number:064x}", "base", 8, size_bytes, "upload", datetime.now(UTC))

    return make


@pytest.fixture
def rig() -> Callable[..., Rig]:
    """Builds a residency of some capacity."""

    def build(*, capacity: int = 2, max_bytes: int = 10**6, wait_s: float = 60.0, is_prompt: bool = True) -> Rig:
        engine = SteppedEngine(is_prompt=is_prompt)
        pins: set[int] = set()
        corrupt: set[str] = set()
        registry = CollectorRegistry()
        metrics = EngineMetrics(registry)

        async def locate(digest: str) -> Path:
            if digest in corrupt:
                raise BlobCorrupt(f"blob {digest} is damaged")
            return Path(digest)

        residency = Residency(
            engine,
            locate=locate,
            capacity=capacity,
            max_bytes=max_bytes,
            wait_s=wait_s,
            is_pinned=lambda version: version.id in pins,
            quarantine=Quarantine(),
            metrics=metrics,
        )
        return Rig(engine, residency, metrics, pins, corrupt, registry)

    return build
