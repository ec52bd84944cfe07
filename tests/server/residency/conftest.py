"""Residencies over an engine whose loads and unloads end when the test says so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from adapters.errors import BlobCorrupt
from adapters.versions import Version
from server.engine.fake import FakeEngine, Knobs
from server.metrics import EngineMetrics
from server.residency.quarantine import Quarantine
from server.residency.residency import Lease, Residency


@dataclass
class Rig:
    """A residency with everything that a test turns."""

    engine: FakeEngine
    knobs: Knobs
    residency: Residency
    metrics: EngineMetrics
    pins: set[int]
    corrupt: set[str]
    collectors: CollectorRegistry

    def begin(self, version: Version) -> asyncio.Task[Lease]:
        return asyncio.ensure_future(self.residency.lease(version))

    @property
    def loaded(self) -> set[int]:
        """Ids of the residents that the engine has loaded."""
        return set(self.engine.residents)

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
def files(tmp_path: Path) -> Path:
    """A directory that the fake engine loads."""
    (tmp_path / "adapter_config.json").touch()
    return tmp_path


@pytest.fixture
def rig(files: Path) -> Callable[..., Rig]:
    """Builds a residency of some capacity."""

    def build(*, capacity: int = 2, max_bytes: int = 10**6, wait_s: float = 60.0, is_stepped: bool = False) -> Rig:
        knobs = Knobs(is_stepped=is_stepped)
        engine = FakeEngine(None, knobs, ("base",))  # type: ignore[arg-type]  # no request reaches this engine
        pins: set[int] = set()
        corrupt: set[str] = set()
        registry = CollectorRegistry()
        metrics = EngineMetrics(registry)

        async def locate(digest: str) -> Path:
            if digest in corrupt:
                raise BlobCorrupt(f"blob {digest} is damaged")
            return files

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
        return Rig(engine, knobs, residency, metrics, pins, corrupt, registry)

    return build
