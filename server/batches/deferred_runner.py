"""The background loop that works on what is answered behind other requests: batches, and runs of evals."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

import structlog
from starlette.types import ASGIApp

from adapters.errors import StorageUnavailable
from server.batches.line_client import LineClient, LinesInFlight, connected
from server.current_engine import CurrentEngine
from trainer.errors import LeaseLost

log = structlog.get_logger(__name__)

LEASE_S: Final = 15.0
"""A process whose last renewal is longer ago counts as dead."""
POLL_S: Final = 0.5
"""Interval at which an idle runner looks for work."""
AT_ONCE: Final = 4
"""Batches worked on at once, and runs, so that a short one need not wait for a long one; all share the lines in
flight."""


class DeferredWork(Protocol):
    """A batch or a run that this process has claimed."""

    @property
    def id(self) -> str: ...

    @property
    def key_id(self) -> str | None:
        """Id of the API key that its lines act for."""

    async def work(self, client: LineClient) -> None:
        """Work until it has ended. Raises LeaseLost once it is another process's, or was ended by its caller."""

    async def release(self) -> None:
        """Let other processes take it, unless it has ended."""


class DeferredQueue(Protocol):
    """Where work is taken from."""

    async def take(self, worker: str, lease_s: float) -> DeferredWork | None:
        """Claim the work that is next; None if there is none."""


@dataclass(frozen=True, slots=True)
class DeferredRunner:
    """Works on what ``queues`` hold.

    Args:
        app: returns the gateway's app for lines that act for the key with an id.
        name: host and process id, which tell processes apart in the records.
        max_models: models that the lines in flight may name, together.
    """

    queues: Sequence[DeferredQueue]
    engine: CurrentEngine
    app: Callable[[str | None], ASGIApp]
    name: str
    max_models: int

    async def run(self) -> None:
        """Work until cancelled; what is unfinished is then released, for this server's next start or another one."""
        in_flight: LinesInFlight | None = None
        working: list[set[asyncio.Task[None]]] = [set() for _ in self.queues]
        async with asyncio.TaskGroup() as group:
            while True:
                has_taken = False
                for queue, tasks in zip(self.queues, working, strict=True):
                    if not self.engine.is_ready or len(tasks) >= AT_ONCE:
                        continue
                    if (work := await self._take(queue)) is None:
                        continue
                    if in_flight is None:
                        lines = max(1, self.engine.serving().engine.batch.sequences // 2)  # what the scheduler admits
                        in_flight = LinesInFlight(lines, self.max_models)
                    tasks.add(task := group.create_task(self._work(work, in_flight)))
                    task.add_done_callback(tasks.discard)
                    has_taken = True
                if not has_taken:
                    await asyncio.sleep(POLL_S)

    async def _take(self, queue: DeferredQueue) -> DeferredWork | None:
        try:
            return await queue.take(self.name, LEASE_S)
        except StorageUnavailable as away:
            log.warning("deferred work waits for the database", reason=away.message)
            await asyncio.sleep(LEASE_S)  # every lease looks expired now: those who hold one get the time to renew it
            return None

    async def _work(self, work: DeferredWork, in_flight: LinesInFlight) -> None:
        log.info("deferred work taken", id=work.id)
        try:
            async with connected(self.app(work.key_id)) as http:
                await work.work(LineClient(http, self.engine, in_flight))
            log.info("deferred work ended", id=work.id)
        except* LeaseLost:
            log.warning("deferred work lost: another process has it, or its caller ended it", id=work.id)
        except* Exception:
            log.exception("deferred work failed; it is tried again", id=work.id)
            await asyncio.sleep(POLL_S)
        finally:
            with suppress(StorageUnavailable):  # then the lease expires
                await asyncio.shield(work.release())
