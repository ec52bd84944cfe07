"""Gives back the disk of runs whose jobs have ended, and of checks that were killed."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from adapters.storage.disk import in_thread
from adapters.storage.orphan_ages import OrphanAges, Stats, stats_by_name
from trainer.child import CHECK_PREFIX
from trainer.jobs.job_store import JobStore
from trainer.run_directory import RunDirectory


async def sweep_runs(jobs: JobStore, runs: Path, checks: OrphanAges, *, keep_s: float, grace_s: float) -> Sequence[str]:
    """Delete the run directories of jobs that ended ``keep_s`` seconds ago; return their names.

    Of a job that ended ``grace_s`` seconds ago, when its last process is surely gone, what only training reads goes:
    rows, optimizer states, copies of other versions. A check that was killed leaves a directory with rows, which goes
    once sweeps with ``checks`` have seen it unchanged for ``grace_s`` seconds, longer than a check can last. A
    directory whose job the database does not know stays.
    """
    names = await in_thread(_names_in, runs)
    ended = await jobs.ended(names, grace_s)
    for name in ended:
        await in_thread(RunDirectory(runs / name).discard_training)
    left = checks.old(await in_thread(_checks_in, runs), grace_s)
    gone = sorted([*left, *await jobs.ended(ended, keep_s)])
    for name in gone:
        await in_thread(shutil.rmtree, runs / name, ignore_errors=True)
    return gone


def _names_in(runs: Path) -> list[str]:
    return sorted(path.name for path in runs.iterdir()) if runs.is_dir() else []


def _checks_in(runs: Path) -> dict[str, Stats]:
    return stats_by_name([runs / name for name in _names_in(runs) if name.startswith(CHECK_PREFIX)])
