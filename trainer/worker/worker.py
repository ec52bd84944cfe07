"""The worker: takes one job after the other off the queue."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from adapters.errors import StorageUnavailable
from trainer.errors import LeaseLost
from trainer.policy_sampling import PolicySampling
from trainer.records import Records
from trainer.run_directory import RunDirectory
from trainer.worker.attempt import Attempt, Publishing

log = structlog.get_logger(__name__)

LEASE_S: Final = 15.0
"""A worker whose last renewal is longer ago counts as dead."""
STALL_S: Final = 1800.0
"""Longest time between two events of a training child: a single step may take that long."""
POLL_S: Final = 0.5
"""Interval at which an idle worker reads the queue."""


def worker_name() -> str:
    """Return host name and process id, which tell workers apart in the records."""
    return f"{socket.gethostname()}:{os.getpid()}"


async def _any_base() -> None:
    return None


@dataclass(frozen=True, slots=True)
class Worker:
    """Works on the jobs of ``records``.

    Args:
        records: the queue, and the stores for events, checkpoints and result files.
        runs: directory of the run directories, one per job, made by the preflight.
        base: waits until the fingerprint of the base model is known whose jobs are taken; None: all are.
        lease_s: seconds after which another worker may take a job whose lease was not renewed.
        stall_s: seconds without an event after which a training child is killed and the job retried.
    """

    records: Records
    runs: Path
    publishing: Publishing
    sampling: PolicySampling
    name: str
    base: Callable[[], Awaitable[str | None]] = _any_base
    lease_s: float = LEASE_S
    stall_s: float = STALL_S

    async def run(self) -> None:
        """Work until cancelled; the current job is then released after a checkpoint."""
        base = await self.base()
        while True:
            try:
                claim = await self.records.queue.take(self.name, self.lease_s, base)
            except StorageUnavailable as away:
                log.warning("the worker waits for the database", reason=away.message)
                # After an outage every lease looks expired: those who hold one get the time to renew it.
                await asyncio.sleep(self.lease_s)
                continue
            if claim is None:
                await asyncio.sleep(POLL_S)
                continue
            log.info("job taken", job=claim.job.id, attempt=claim.token)
            try:
                run = RunDirectory(self.runs / claim.job.id)
                await Attempt(self.records, self.publishing, self.sampling, claim, run, stall_s=self.stall_s).work()
            except* LeaseLost:
                log.warning("job lost: it was cancelled, or another worker has it", job=claim.job.id)
