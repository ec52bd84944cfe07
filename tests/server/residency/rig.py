"""A residency over the fake engine, and the types of its tests' fixtures."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from adapters.versions import Version
from server.engine.fake import FakeEngine, Knobs
from server.metrics import EngineMetrics
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
        return {view.version.name: str(view.state) for view in self.residency.entries()}

    def count(self, name: str) -> float:
        value = self.collectors.get_sample_value(name)
        assert value is not None
        return value


async def settle() -> None:
    """Let every task run until it waits for something from outside."""
    for _ in range(20):
        await asyncio.sleep(0)


BuildRig = Callable[..., Rig]
MakeVersion = Callable[..., Version]
Settle = Callable[[], Awaitable[None]]
