"""Charges training to keys and projects, and pauses the jobs of those that have used their minutes of the day."""

import asyncio
from collections import defaultdict
from contextlib import suppress
from typing import Final

import structlog

from adapters.errors import StorageUnavailable
from server.errors import QuotaExceeded
from server.state import AppState
from trainer.errors import IllegalTransition, JobNotFound
from trainer.jobs.state import JobState

log = structlog.get_logger(__name__)

INTERVAL_S: Final = 3.0
_TRAINING: Final = frozenset({JobState.QUEUED, JobState.RUNNING})


async def follow_training(state: AppState) -> None:
    """Charge what jobs have used every ``INTERVAL_S`` seconds, until cancelled."""
    while True:
        await asyncio.sleep(INTERVAL_S)
        try:
            await settle_training(state)
        except StorageUnavailable as away:
            log.warning("training cannot be charged yet", reason=away.message)


async def settle_training(state: AppState) -> None:
    """Charge what jobs have used since they were charged last; pause those whose key or project may not train on."""
    jobs, accounts = state.records.jobs, state.accounts
    await accounts.usage.charge_training(jobs)
    if not accounts.limits.any_of("training_minutes_per_day"):
        return
    by_account: defaultdict[tuple[str | None, str], list[str]] = defaultdict(list)
    for job in await jobs.unfinished():
        if job.state in _TRAINING:
            by_account[job.key_id, job.project].append(job.id)
    for (key_id, project), ids in by_account.items():
        try:
            await accounts.quotas.check_training(key_id, project)
        except QuotaExceeded as over:
            for job_id in ids:
                with suppress(IllegalTransition, JobNotFound):  # it ended, or another server has paused it
                    await jobs.pause(job_id, reason=over.message)
                    log.info("paused a job", job=job_id, reason=over.message)
