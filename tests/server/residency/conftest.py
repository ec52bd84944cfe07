"""Residencies over an engine whose loads and unloads end when the test says so."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from adapters.errors import BlobCorrupt
from adapters.versions import Version
from server.death_suspects import DeathSuspects
from server.engine.fake import FakeEngine, Knobs
from server.metrics import EngineMetrics
from server.residency.capacity import Capacity, ProjectBytes
from server.residency.quarantine import Quarantine
from server.residency.residency import Residency
from tests.server.residency.rig import BuildRig, MakeVersion, Rig, Settle, settle


@pytest.fixture(name="settle")
def settle_() -> Settle:
    return settle


@pytest.fixture
def version() -> MakeVersion:
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
def rig(files: Path) -> BuildRig:
    """Builds a residency of some capacity; each adapter is a project of its own, limited to ``project_limit`` bytes."""

    def build(
        *,
        capacity: int = 2,
        max_bytes: int = 10**6,
        project_limit: int | None = None,
        wait_s: float = 60.0,
        is_stepped: bool = False,
    ) -> Rig:
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
            capacity=Capacity(capacity, max_bytes, lambda version: ProjectBytes(version.adapter, project_limit)),
            wait_s=wait_s,
            is_pinned=lambda version: version.id in pins,
            quarantined=Quarantine(),
            suspects=DeathSuspects(),
            metrics=metrics,
        )
        return Rig(engine, knobs, residency, metrics, pins, corrupt, registry)

    return build
