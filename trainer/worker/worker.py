"""The worker: one job at a time off the queue."""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from trainer.errors import LeaseLost
from trainer.records import Records
from trainer.run_directory import RunDirectory
from trainer.worker.attempt import Attempt
from trainer.worker.publishing import Publishing

log = structlog.get_logger(__name__)

LEASE_S: Final = 15.0
"""How long after its last sign of life a worker counts as dead."""
STALL_S: Final = 1800.0
"""How long a child may say nothing once it trains: a single step may take that long."""
POLL_S: Final = 0.5
"""How often the queue is asked."""


def worker_name() -> str:
    """Return what tells this process from the workers of other machines."""
    return f"{socket.gethostname()}:{os.getpid()}"


@dataclass(frozen=True, slots=True)
class Worker:
    """Works on the jobs of ``records``.

    Args:
        records: where jobs wait.
        runs: directory of the run directories, one a job, laid out when the job was validated.
        publishing: makes versions of what runs export.
        name: says in the records who holds a job.
        lease_s: how long a job stays with a worker that gives no sign of life, in seconds.
        stall_s: how long a child that trains may say nothing before it is killed and started again, in seconds.
    """

    records: Records
    runs: Path
    publishing: Publishing
    name: str
    lease_s: float = LEASE_S
    stall_s: float = STALL_S

    async def run(self) -> None:
        """Work until cancelled; the job at hand is given back after a checkpoint."""
        while True:
            claim = await self.records.queue.take(self.name, self.lease_s)
            if claim is None:
                await asyncio.sleep(POLL_S)
                continue
            log.info("job taken", job=claim.job.id, attempt=claim.token)
            try:
                run = RunDirectory(self.runs / claim.job.id)
                await Attempt(self.records, self.publishing, claim, run, stall_s=self.stall_s).work()
            except* LeaseLost:
                log.warning("job lost: cancelled, or another worker's", job=claim.job.id)
