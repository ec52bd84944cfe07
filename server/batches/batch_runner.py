"""The background loop that works on batches, beside the requests that the server answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog
from starlette.types import ASGIApp

from server.batches.batch_attempt import BatchAttempt, ServerChecks
from server.batches.batch_store import BatchClaim, BatchStore
from server.batches.line_client import LineClient, LinesInFlight, connected
from server.current_engine import CurrentEngine
from trainer.errors import LeaseLost

log = structlog.get_logger(__name__)

LEASE_S: Final = 15.0
"""A process whose last renewal is longer ago counts as dead."""
POLL_S: Final = 0.5
"""Interval at which an idle runner looks for batches."""
BATCHES_AT_ONCE: Final = 4
"""Batches worked on at once, so that a short one need not wait for a long one; they share the lines in flight."""


@dataclass(frozen=True, slots=True)
class BatchRunner:
    """Works on the batches of ``store``.

    Args:
        app: returns the gateway's app for lines that act for the key with an id.
        name: host and process id, which tell processes apart in the records.
        max_models: models that the lines in flight may name, together.
    """

    store: BatchStore
    engine: CurrentEngine
    checks: ServerChecks
    app: Callable[[str | None], ASGIApp]
    name: str
    max_models: int

    async def run(self) -> None:
        """Work until cancelled; unfinished batches are then released, for this server's next start or another one."""
        working: set[asyncio.Task[None]] = set()
        in_flight: LinesInFlight | None = None
        async with asyncio.TaskGroup() as group:
            while True:
                claim = None
                if self.engine.is_ready and len(working) < BATCHES_AT_ONCE:
                    claim = await self.store.take(self.name, LEASE_S)
                if claim is None:
                    await asyncio.sleep(POLL_S)
                    continue
                if in_flight is None:
                    lines = max(1, self.engine.serving().engine.batch.sequences // 2)  # the scheduler admits no more
                    in_flight = LinesInFlight(lines, self.max_models)
                working.add(task := group.create_task(self._work(claim, in_flight)))
                task.add_done_callback(working.discard)

    async def _work(self, claim: BatchClaim, in_flight: LinesInFlight) -> None:
        batch = claim.batch
        log.info("batch taken", batch=batch.id, status=batch.state, attempt=claim.token)
        try:
            async with connected(self.app(batch.key_id)) as http:
                client = LineClient(http, self.engine, in_flight, batch.endpoint)
                await BatchAttempt(self.store, claim, client, self.checks).work()
            log.info("batch ended", batch=batch.id)
        except* LeaseLost:
            log.warning("batch lost: another process has it", batch=batch.id)
        except* Exception:
            log.exception("work on a batch failed; it is tried again", batch=batch.id)
            await asyncio.sleep(POLL_S)
        finally:
            await asyncio.shield(self.store.release(claim))
