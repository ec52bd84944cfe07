"""One attempt at a job, from the start of its training process to the report of how it ended.

child trains ──┬── its events go to the job's log and renew the lease ──┐
               ├── each checkpoint is published, then recorded ─────────┤
               └── answers of its policy are drawn on the server ───────┤
                                                                        ▼
finished: publish the result, store its files, succeed        killed, stalled, out of memory: retry
stopped (pause, shut-down), disk full: release                refused, loss not finite: fail
"""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, Protocol, TypeVar

import structlog

from adapters.errors import PatchbayError, StorageUnavailable, WorkerProcessDied
from adapters.storage.disk import in_thread
from trainer.child import Child, child
from trainer.errors import LeaseLost
from trainer.files.file import Purpose
from trainer.jobs.checkpoints import CheckpointDraft
from trainer.jobs.events import EventDraft, Kind, Level
from trainer.jobs.job import Failure
from trainer.jobs.queue import Claim, ClaimOrder
from trainer.policy_sampling import PolicyAnswers, PolicyRequest, PolicySampling
from trainer.records import Records
from trainer.run_directory import RESULT_FILES, Exit, RunDirectory, RunEvent
from trainer.worker.policy_channel import PolicyChannel

log = structlog.get_logger(__name__)

POLL_S: Final = 0.1
"""Interval at which the child's events are read."""
RENEWAL_S: Final = 2.0
"""Longest time between renewals of the lease; a cancellation is noticed as late."""
START_S: Final = 1800.0
"""Time limit for the child's first event: it imports libraries and loads the base model before."""
RESULT_FILES_S: Final = 60.0
"""Time limit for the child's result files, after its result."""
OUTAGE_S: Final = 0.5
"""Pause before a write is tried again that the database did not answer."""
NO_SPACE_S: Final = 60.0
"""Pause before a job goes on whose child found the disk full."""
LONGEST_PAUSE_S: Final = 30.0
"""Longest pause before what met passing trouble is tried again; the first is half a second."""
MOST_HELPER_DEATHS: Final = 5
"""Deaths of a process that checks a publication after which the publication counts as refused."""
_PIECE_BYTES: Final = 1 << 20

T = TypeVar("T")


class Publishing(Protocol):
    """Publishes what runs export. Every method is idempotent: repeated calls publish one version.

    While the server restarts, or its engine is being rebuilt, the methods wait. They raise PatchbayError where the
    export is refused, and where trouble that can pass prevents it (``is_passing``): the attempt then tries again, so
    that hours of training are not lost. ``claim``: token of the worker's claim; once the job is another's, it is
    refused.
    """

    async def checkpoint(self, job_id: str, step: int, claim: int) -> str:
        """Publish the job's checkpoint of ``step`` and return its fine-tuned name."""

    async def result(self, job_id: str, claim: int) -> str:
        """Make the job's best checkpoint its result, resident and under ``stable``; return its fine-tuned name."""


@dataclass(eq=False)
class Attempt:
    """The work on a ``claim``, with the run directory ``run``; ``stall_s`` limits the time between events."""

    records: Records
    publishing: Publishing
    sampling: PolicySampling
    claim: Claim
    run: RunDirectory
    _: KW_ONLY
    stall_s: float
    _silence_limit_s: float = field(default=START_S, init=False)
    _unpublished: asyncio.Queue[int | None] = field(default_factory=asyncio.Queue, init=False)
    """Steps of checkpoints; None: no more follow."""
    _order: ClaimOrder = field(default=ClaimOrder.GO_ON, init=False)

    def __post_init__(self) -> None:
        self._position = self.claim.job.events_position
        self._last_event_at = self._renewed_at = time.monotonic()

    async def work(self) -> None:
        """Run the child to its end and report the end to the queue.

        When cancelled: stop the child at a checkpoint and release the job.

        Raises:
            ExceptionGroup: of LeaseLost: the job was cancelled, or another worker has it.
        """
        channel = PolicyChannel(self._sample)
        async with child(self.run.path, stdin=channel.child_end) as process, asyncio.TaskGroup() as group:
            sampling = group.create_task(channel.serve())
            publishing = group.create_task(self._publish_checkpoints())
            try:
                for checkpoint in await in_thread(self.run.checkpoints):  # an earlier attempt may not have published
                    self._unpublished.put_nowait(checkpoint.step)
                status = await self._watch(process)
                sampling.cancel()
                self._unpublished.put_nowait(None)
                await self._while_renewing(publishing)
                await self._report_end(process, status)
            except asyncio.CancelledError:
                if not publishing.done() or publishing.exception() is None:  # else the group cancels, not our caller
                    await process.stop()
                    with suppress(LeaseLost, StorageUnavailable):  # without it, the lease expires
                        await self.records.queue.release(self.claim)
                raise

    async def _watch(self, process: Child) -> int:
        """Forward events until the child ends, has its result or is ordered to pause; return its exit status."""
        while (status := await process.ended(POLL_S)) is None:
            await self._forward_events()
            if self._order is ClaimOrder.PAUSE:
                status = await self._while_renewing(process.stop())
                break
            if await in_thread(self.run.result) is not None:
                status = Exit.FINISHED  # the result files follow; the result can be published meanwhile
                break
            if time.monotonic() - self._last_event_at > self._silence_limit_s:
                log.warning("training process stalled", job=self.claim.job.id, silent_s=self._silence_limit_s)
                status = await process.kill()
                break
        await self._forward_events()
        return status

    async def _forward_events(self) -> None:
        """Record the child's new events; without any, renew the lease when it is due.

        Raises:
            LeaseLost: the job was cancelled, or another worker has it.
        """
        events, position = await in_thread(self.run.events_since, self._position)
        now = time.monotonic()
        if events:
            saved = [event for event in events if "checkpoint" in event.data]  # recorded once they are published
            self._order = await self._stored(
                partial(
                    self.records.queue.record,
                    self.claim,
                    events=[_draft(event) for event in events if event not in saved],
                    position=position,
                    remaining_s=_remaining_s(events),
                )
            )
            self._position, self._last_event_at, self._silence_limit_s = position, now, self.stall_s
            for event in saved:
                self._unpublished.put_nowait(event.data["step"])
        elif now - self._renewed_at > RENEWAL_S:
            self._order = await self._stored(partial(self.records.queue.heartbeat, self.claim))
        else:
            return
        self._renewed_at = now
        if self._order is ClaimOrder.STOP:
            raise LeaseLost(f"job '{self.claim.job.id}' was cancelled")

    async def _publish_checkpoints(self) -> None:
        """Publish the checkpoints in their order; a refused one is skipped, with a warning in the job's log."""
        published: set[int] = set()
        while (step := await self._unpublished.get()) is not None:
            if step in published:
                continue
            try:
                publication = partial(self.publishing.checkpoint, self.claim.job.id, step, self.claim.token)
                model = await self._tried(f"The checkpoint of step {step} cannot be published yet", publication)
            except PatchbayError as refused:
                await self._warn(f"Checkpoint of step {step} was refused: {refused.message}")
            else:
                draft = CheckpointDraft(step, model, self.run.checkpoint(step).marker.metrics)
                await self._stored(partial(self.records.queue.record, self.claim, checkpoints=[draft]))
            published.add(step)

    async def _report_end(self, process: Child, status: int) -> None:
        queue, claim = self.records.queue, self.claim
        if status == Exit.FINISHED:
            await self._succeed(process)
        elif status == Exit.STOPPED:
            await self._stored(partial(queue.release, claim))
        elif status == Exit.NO_SPACE:
            await self._warn("The disk is full: the job goes on from its last checkpoint once there is space")
            await self._while_renewing(asyncio.sleep(NO_SPACE_S))
            await self._stored(partial(queue.release, claim))
        elif status in (Exit.REFUSED, Exit.NOT_FINITE):
            errors = (event.message for event in reversed(self.run.events()) if event.level == "error")
            failure = Failure(Exit(status).name.lower(), next(errors, "see the events"))
            await self._stored(partial(queue.fail, claim, failure))
        else:
            await self._stored(partial(queue.retry, claim, f"the training process ended with status {status}"))

    async def _succeed(self, process: Child) -> None:
        result, job = self.run.result(), self.claim.job
        assert result is not None, "the child finished"
        try:
            publication = partial(self.publishing.result, job.id, self.claim.token)
            model = await self._while_renewing(self._tried("The result cannot be published yet", publication))
        except PatchbayError as refused:
            await self._stored(partial(self.records.queue.fail, self.claim, Failure(refused.code, refused.message)))
            return
        await self._while_renewing(process.ended(RESULT_FILES_S))
        files = await self._while_renewing(self._store_result_files())
        ending = partial(self.records.queue.succeed, fine_tuned_model=model, trained_tokens=result.trained_tokens)
        await self._stored(partial(ending, self.claim, result_files=files))
        log.info("job succeeded", job=job.id, model=model)

    async def _store_result_files(self) -> list[str]:
        """Return the ids of the files for people; one that is refused is left out, with a warning."""
        ids = []
        for path in (self.run.path / name for name in RESULT_FILES):
            try:
                if path.exists():
                    ids.append(
                        await self._tried(f"The file {path.name} cannot be stored yet", partial(self._store, path))
                    )
            except PatchbayError as refused:
                await self._warn(f"The file {path.name} was refused: {refused.message}")
        return ids

    async def _store(self, path: Path) -> str:
        project = self.claim.job.project
        file = await self.records.files.create(Purpose.FINE_TUNE_RESULTS, path.name, _pieces(path), project=project)
        return file.id

    async def _sample(self, request: PolicyRequest) -> PolicyAnswers:
        sampling = partial(self.sampling.sample, self.claim.job.id, request, self.claim.token)
        return await self._tried(f"The answers {request.source} cannot be drawn yet", sampling)

    async def _tried(self, trouble_is: str, act: Callable[[], Awaitable[T]]) -> T:
        """Return the result of ``act``, tried again while the trouble that it meets can pass."""
        pause_s = OUTAGE_S
        for tries in itertools.count(1):
            try:
                return await act()
            except PatchbayError as trouble:
                is_over = isinstance(trouble, WorkerProcessDied) and tries >= MOST_HELPER_DEATHS
                if not trouble.is_passing or is_over:
                    raise
                if tries == 1:
                    await self._warn(f"{trouble_is}, and this is tried again: {trouble.message}")
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        raise AssertionError("the loop has no end")

    async def _warn(self, message: str) -> None:
        await self._stored(partial(self.records.queue.record, self.claim, events=[EventDraft(message, Level.WARN)]))

    async def _stored(self, write: Callable[[], Awaitable[T]]) -> T:
        """Return the result of ``write``, tried again for as long as the database does not answer.

        The child trains on meanwhile; afterwards the claim is renewed, if no other worker has the job by then.
        """
        is_logged = False
        while True:
            try:
                return await write()
            except StorageUnavailable as away:
                if not is_logged:
                    log.warning("training goes on without the database", job=self.claim.job.id, reason=away.message)
                    is_logged = True
                await asyncio.sleep(OUTAGE_S)

    async def _while_renewing(self, work: Awaitable[T]) -> T:
        """Await ``work`` and return its result; renew the lease meanwhile."""
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=POLL_S)
                await self._forward_events()
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
