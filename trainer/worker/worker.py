"""The worker: one job at a time, from the queue to a published version.

take → start the child → pass its events on, show signs of life → it ended → publish → succeed
                              │ pause, cancel, shut-down: SIGTERM, it writes a checkpoint
                              │ it died: the job is queued again and goes on from its newest checkpoint
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from adapters.errors import PatchbayError
from adapters.versions import Version
from trainer.errors import LeaseLost
from trainer.jobs.event import EventDraft, Kind, Level
from trainer.jobs.job import Failure, Job
from trainer.jobs.queue import Claim, Order
from trainer.records import Records
from trainer.run_directory import Event, Exit, RunDirectory
from trainer.worker.child import Child, child
from trainer.worker.run_request import adapter_name, run_spec

log = structlog.get_logger(__name__)

LEASE_S: Final = 30.0
SIGN_OF_LIFE_S: Final = 2.0
"""Longest silence towards the queue: also how late a cancellation may be noticed."""
POLL_S: Final = 0.5
"""How often the queue is asked, and a child's events are passed on."""

Publish = Callable[[str, Path, str], Awaitable[Version]]
"""(adapter, PEFT directory, origin) → version, resident. One origin published twice is one version."""


@dataclass(frozen=True, slots=True)
class Worker:
    """Works on the jobs of ``records``.

    Args:
        records: where jobs wait.
        runs: directory of the run directories, one a job.
        base: returns the base model's directory; raises while it is not known.
        publish: makes a version of what a run exported.
        name: says in the records who holds a job.
        threads: CPU threads of a child.
    """

    records: Records
    runs: Path
    base: Callable[[], Path]
    publish: Publish
    name: str
    threads: int

    async def run(self) -> None:
        """Work until cancelled; the job at hand is given back after a checkpoint."""
        while True:
            claim = await self.records.queue.take(self.name, LEASE_S)
            if claim is None:
                await asyncio.sleep(POLL_S)
                continue
            log.info("job taken", job=claim.job.id)
            try:
                await self._work(claim)
            except LeaseLost:
                log.warning("job lost to another worker", job=claim.job.id)

    async def _work(self, claim: Claim) -> None:
        run = await self._prepare(claim.job)
        passed = _Passed(self.records, claim, run)
        async with child(run.path) as process:
            try:
                status = await self._attend(process, passed)
            except asyncio.CancelledError:
                await process.stop()
                await asyncio.shield(self.records.queue.release(claim))
                raise
        await passed.on()
        await self._conclude(claim, run, status, passed.order)

    async def _prepare(self, job: Job) -> RunDirectory:
        """Return the job's run directory, made at the first attempt."""
        run = RunDirectory(self.runs / job.id)
        if not (run.path / "spec.json").exists():
            training = await self.records.files.content(job.training_file)
            validation = None if job.validation_file is None else await self.records.files.content(job.validation_file)
            run.write_spec(
                run_spec(job, base=self.base(), training=training, validation=validation, threads=self.threads)
            )
        return run

    async def _attend(self, process: Child, passed: _Passed) -> int:
        """Pass events on until the child ended; return its exit status."""
        while (status := await process.ended(POLL_S)) is None:
            await passed.on()
            if passed.order is not Order.GO_ON:
                return await process.stop()
        return status

    async def _conclude(self, claim: Claim, run: RunDirectory, status: int, order: Order) -> None:
        queue = self.records.queue
        if order is Order.STOP:
            return  # cancelled: there is nothing left to say
        if status == Exit.FINISHED:
            await self._publish(claim, run)
        elif status == Exit.STOPPED:
            await queue.release(claim)
        elif status in (Exit.REFUSED, Exit.NOT_FINITE):
            reason = next(
                (event.message for event in reversed(run.events()) if event.level == "error"), "see the events"
            )
            await queue.fail(claim, Failure(Exit(status).name.lower(), reason))
        else:
            await queue.retry(claim, f"the training process ended with status {status}")

    async def _publish(self, claim: Claim, run: RunDirectory) -> None:
        result, job = run.result(), claim.job
        assert result is not None, "the child said it finished"
        adapter = run.checkpoints_folder / result.best_checkpoint / "adapter"
        try:
            version = await self.publish(adapter_name(job), adapter, f"job:{job.id}")
        except PatchbayError as refused:
            await self.records.queue.fail(claim, Failure(refused.code, refused.message))
            return
        await self.records.queue.succeed(claim, fine_tuned_model=version.name, trained_tokens=result.trained_tokens)
        log.info("job succeeded", job=job.id, version=version.name)


class _Passed:
    """How far a child's events were passed on, and what the queue last ordered.

    How far is kept in the run directory, after the fact: a worker killed in between passes a few events on twice, and
    none is lost.
    """

    def __init__(self, records: Records, claim: Claim, run: RunDirectory) -> None:
        self._records = records
        self._claim = claim
        self._run = run
        self._count = run.passed()
        self._sign_of_life = time.monotonic()
        self.order = Order.GO_ON

    async def on(self) -> None:
        """Pass on what is new, and show a sign of life now and then."""
        new = self._run.events()[self._count :]
        if new:
            self.order = await self._records.queue.record(self._claim, events=[_draft(event) for event in new])
            self._count += len(new)
            self._run.write_passed(self._count)
        elif time.monotonic() - self._sign_of_life > SIGN_OF_LIFE_S:
            self.order = await self._records.queue.heartbeat(self._claim)
        else:
            return
        self._sign_of_life = time.monotonic()


def _draft(event: Event) -> EventDraft:
    return EventDraft(event.message, Level(event.level), Kind(event.type), event.data)
