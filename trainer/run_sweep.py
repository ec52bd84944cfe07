"""Gives back the disk of runs whose jobs have ended, and of checks that were killed."""

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from adapters.storage.disk import in_thread
from trainer.child import CHECK_PREFIX
from trainer.jobs.job_store import JobStore
from trainer.run_directory import RunDirectory


async def sweep_runs(jobs: JobStore, runs: Path, *, keep_s: float, grace_s: float) -> Sequence[str]:
    """Delete the run directories of jobs that ended ``keep_s`` seconds ago; return their names.

    Of a job that ended ``grace_s`` seconds ago, when its last process is surely gone, what only training reads goes:
    rows, optimizer states, copies of other versions. A check that was killed leaves a directory with rows, which goes
    once no check can last so long, after ``grace_s`` seconds. A directory whose job the database does not know stays.
    """
    names = await in_thread(_names_in, runs)
    ended = await jobs.ended(names, grace_s)
    for name in ended:
        await in_thread(RunDirectory(runs / name).discard_training)
    left = await in_thread(_left_by_checks, runs, time.time() - grace_s)
    gone = sorted([*left, *await jobs.ended(ended, keep_s)])
    for name in gone:
        await in_thread(shutil.rmtree, runs / name, ignore_errors=True)
    return gone


def _names_in(runs: Path) -> list[str]:
    return sorted(path.name for path in runs.iterdir()) if runs.is_dir() else []


def _left_by_checks(runs: Path, before: float) -> list[str]:
    """Return the names of the directories of checks to which nothing was written since ``before``, in Unix time."""
    found = [runs / name for name in _names_in(runs) if name.startswith(CHECK_PREFIX)]
    return [path.name for path in found if _is_older(path, before)]


def _is_older(path: Path, than: float) -> bool:
    try:
        return all(each.lstat().st_mtime < than for each in (path, *path.rglob("*")))
    except FileNotFoundError:  # the check ends now
        return False
