"""One attempt at a job, from the start of its child to whatever ended it.

child trains ──┬── its events go to the job's log, with signs of life ──┐
               └── each checkpoint is published, and then noted ────────┤
                                                                        ▼
finished: publish the result, store its files, succeed        killed, stalled, out of memory: retry
stopped (pause, shut-down): release                           refused, not finite: fail
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import structlog

from adapters.errors import PatchbayError
from adapters.storage.disk import in_thread
from trainer.child import Child, child
from trainer.errors import LeaseLost
from trainer.files.file import Purpose
from trainer.jobs.checkpoints import CheckpointDraft
from trainer.jobs.events import EventDraft, Kind, Level
from trainer.jobs.job import Failure
from trainer.jobs.queue import Claim, ClaimOrder
from trainer.records import Records
from trainer.run_directory import RESULT_FILES, Exit, RunDirectory, RunEvent
from trainer.worker.publishing import Publishing

log = structlog.get_logger(__name__)

POLL_S: Final = 0.1
"""How often the child's events are looked for."""
SIGN_OF_LIFE_S: Final = 2.0
"""Longest silence towards the queue: also how late a cancellation may be noticed."""
START_S: Final = 1800.0
"""How long a child may take until its first word: it imports much, and loads the base model."""
AFTERMATH_S: Final = 60.0
"""How long a child may take for its result files."""
_PIECE_BYTES: Final = 1 << 20

T = TypeVar("T")


class Attempt:
    """A worker's ``claim`` on a job, worked off in ``run``."""

    def __init__(
        self, records: Records, publishing: Publishing, claim: Claim, run: RunDirectory, *, stall_s: float
    ) -> None:
        self._records = records
        self._publishing = publishing
        self._claim = claim
        self._run = run
        self._stall_s = stall_s
        self._patience_s = START_S
        self._position = claim.job.events_position
        self._due: asyncio.Queue[int | None] = asyncio.Queue()
        self._heard = self._sign_of_life = time.monotonic()
        self._order = ClaimOrder.GO_ON

    async def work(self) -> None:
        """Run the child to its end and tell the queue how it ended.

        Cancelled, it asks the child for a checkpoint and gives the job back.

        Raises:
            ExceptionGroup: of LeaseLost: the job was cancelled, or is another worker's now.
        """
        async with child(self._run.path) as process, asyncio.TaskGroup() as beside:
            publishing = beside.create_task(self._publish_checkpoints())
            try:
                await self._queue_unnoted()
                status = await self._attend(process)
                self._due.put_nowait(None)
                await self._alive_until(publishing)
                await self._conclude(process, status)
            except asyncio.CancelledError:
                if not publishing.done() or publishing.exception() is None:  # else the group cancels, not our caller
                    await process.stop()
                    with suppress(LeaseLost):
                        await self._records.queue.release(self._claim)
                raise

    async def _queue_unnoted(self) -> None:
        """Publish first what an earlier attempt left behind unpublished."""
        for checkpoint in await in_thread(self._run.checkpoints):
            self._due.put_nowait(checkpoint.step)

    async def _attend(self, process: Child) -> int:
        """Pass events on until the child ended, has its result, or was told to; return its exit status."""
        while (status := await process.ended(POLL_S)) is None:
            await self._pass_on()
            if self._order is ClaimOrder.PAUSE:
                status = await self._while_alive(process.stop())
                break
            if await in_thread(self._run.result) is not None:
                status = Exit.FINISHED  # what the child still does is no reason to wait
                break
            if time.monotonic() - self._heard > self._patience_s:
                log.warning("a training process said nothing for too long", job=self._claim.job.id, s=self._patience_s)
                status = await process.kill()
                break
        await self._pass_on()
        return status

    async def _pass_on(self) -> None:
        """Pass on the child's new events, and show a sign of life now and then.

        Raises:
            LeaseLost: the job was cancelled, or is another worker's now.
        """
        events, position = await in_thread(self._run.events_since, self._position)
        now = time.monotonic()
        if events:
            saved = [event for event in events if "checkpoint" in event.data]  # told of when it can be chatted with
            told = [_draft(event) for event in events if event not in saved]
            self._order = await self._records.queue.record(
                self._claim, events=told, position=position, remaining_s=_remaining_s(events)
            )
            self._position, self._heard, self._patience_s = position, now, self._stall_s
            for event in saved:
                self._due.put_nowait(event.data["step"])
        elif now - self._sign_of_life > SIGN_OF_LIFE_S:
            self._order = await self._records.queue.heartbeat(self._claim)
        else:
            return
        self._sign_of_life = now
        if self._order is ClaimOrder.STOP:
            raise LeaseLost(f"job '{self._claim.job.id}' was cancelled")

    async def _publish_checkpoints(self) -> None:
        """Publish each checkpoint that is due, in their order; one that is refused is told of and passed over."""
        done: set[int] = set()
        while (step := await self._due.get()) is not None:
            if step in done:
                continue
            try:
                model = await self._publishing.checkpoint(self._claim.job.id, step)
            except PatchbayError as refused:
                told = EventDraft(f"Checkpoint of step {step} was refused: {refused.message}", Level.WARN)
                await self._records.queue.record(self._claim, events=[told])
            else:
                metrics = self._run.checkpoint(step).marker.metrics
                draft = CheckpointDraft(step, model, metrics)
                await self._records.queue.record(self._claim, checkpoints=[draft])
            done.add(step)

    async def _conclude(self, process: Child, status: int) -> None:
        queue, claim = self._records.queue, self._claim
        if status == Exit.FINISHED:
            await self._succeed(process)
        elif status == Exit.STOPPED:
            await queue.release(claim)
        elif status in (Exit.REFUSED, Exit.NOT_FINITE):
            told = (event.message for event in reversed(self._run.events()) if event.level == "error")
            await queue.fail(claim, Failure(Exit(status).name.lower(), next(told, "see the events")))
        else:
            await queue.retry(claim, f"the training process ended with status {status}")

    async def _succeed(self, process: Child) -> None:
        result, job = self._run.result(), self._claim.job
        assert result is not None, "the child said it finished"
        try:
            model = await self._while_alive(self._publishing.result(job.id))
        except PatchbayError as refused:
            await self._records.queue.fail(self._claim, Failure(refused.code, refused.message))
            return
        await self._while_alive(process.ended(AFTERMATH_S))
        files = [await self._store(path) for name in RESULT_FILES if (path := self._run.path / name).exists()]
        await self._records.queue.succeed(
            self._claim, fine_tuned_model=model, trained_tokens=result.trained_tokens, result_files=files
        )
        log.info("job succeeded", job=job.id, model=model)

    async def _store(self, path: Path) -> str:
        file = await self._records.files.create(Purpose.FINE_TUNE_RESULTS, path.name, _pieces(path))
        return file.id

    async def _alive_until(self, task: asyncio.Task[None]) -> None:
        while not task.done():
            await asyncio.wait({task}, timeout=POLL_S)
            await self._pass_on()

    async def _while_alive(self, act: Coroutine[Any, Any, T]) -> T:
        """Do ``act`` and show signs of life meanwhile."""
        task = asyncio.ensure_future(act)
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=POLL_S)
                await self._pass_on()
            return task.result()
        finally:
            task.cancel()


def _draft(event: RunEvent) -> EventDraft:
    return EventDraft(event.message, Level(event.level), Kind(event.type), event.data)


def _remaining_s(events: list[RunEvent]) -> float | None:
    etas = [event.data["eta_s"] for event in events if "eta_s" in event.data]
    return etas[-1] if etas else None


async def _pieces(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while piece := await in_thread(file.read, _PIECE_BYTES):
            yield piece
