"""Batches as work of the deferred runner."""

from __future__ import annotations

from dataclasses import dataclass

from server.batches.batch_attempt import BatchAttempt, ServerChecks
from server.batches.batch_store import BatchClaim, BatchStore
from server.batches.line_client import LineClient


@dataclass(frozen=True, slots=True)
class BatchWork:
    """The batch of ``claim``; implements ``server.batches.deferred_runner.DeferredWork``."""

    store: BatchStore
    claim: BatchClaim
    checks: ServerChecks

    @property
    def id(self) -> str:
        return self.claim.batch.id

    @property
    def key_id(self) -> str | None:
        return self.claim.batch.key_id

    async def work(self, client: LineClient) -> None:
        await BatchAttempt(self.store, self.claim, client, self.checks).work()

    async def release(self) -> None:
        await self.store.release(self.claim)


@dataclass(frozen=True, slots=True)
class BatchQueue:
    """The unfinished batches of ``store``."""

    store: BatchStore
    checks: ServerChecks

    async def take(self, worker: str, lease_s: float) -> BatchWork | None:
        claim = await self.store.take(worker, lease_s)
        return None if claim is None else BatchWork(self.store, claim, self.checks)
