"""The disk of ended runs is given back: what training read first, the whole directory later."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from adapters.storage.orphan_ages import OrphanAges
from tests.process_clock import ProcessClock
from tests.trainer.conftest import Create
from trainer import run_sweep
from trainer.jobs.job import Job
from trainer.records import Records
from trainer.run_directory import RunDirectory
from trainer.run_sweep import sweep_runs

TRAINING = ("token_rows/rows", "scratch/x", "warm_start/adapter_config.json", "checkpoints/step-1/state/optimizer.pt")
KEPT = (
    "events.jsonl",
    "metrics.csv",
    "checkpoints/step-1/adapter/adapter_model.safetensors",
    "checkpoints/step-1/model/model.safetensors",
)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def run_of(runs: Path) -> Callable[[Job], RunDirectory]:
    """Writes the run directory of a job."""

    def run_of(job: Job) -> RunDirectory:
        for name in (*TRAINING, *KEPT):
            path = runs / job.id / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
        return RunDirectory(runs / job.id)

    return run_of


def files_of(run: RunDirectory) -> set[str]:
    return {str(path.relative_to(run.path)) for path in run.path.rglob("*") if path.is_file()}


async def test_rows_and_optimizer_states_go_with_the_job_and_the_run_later(
    records: Records, create: Create, runs: Path, run_of: Callable[[Job], RunDirectory]
) -> None:
    jobs = records.jobs
    ended, unfinished = await create(), await create()
    run, other = run_of(ended), run_of(unfinished)
    await jobs.cancel(ended.id)
    assert await sweep_runs(jobs, runs, OrphanAges(), keep_s=3600, grace_s=600) == []
    assert files_of(run) == {*TRAINING, *KEPT}
    assert await sweep_runs(jobs, runs, OrphanAges(), keep_s=3600, grace_s=0) == []
    assert files_of(run) == set(KEPT)
    assert await sweep_runs(jobs, runs, OrphanAges(), keep_s=0, grace_s=0) == [ended.id]
    assert not run.path.exists()
    assert files_of(other) == {*TRAINING, *KEPT}


async def test_the_rows_of_a_check_that_was_killed_go_and_those_of_a_running_one_stay(
    records: Records, runs: Path, process_clock: ProcessClock
) -> None:
    checks, killed, running = OrphanAges(), runs / "patchbay-check-a", runs / "patchbay-check-b"
    for path in (killed, running):
        path.mkdir(parents=True)
        (path / "longest.jsonl").write_text("{}")
        for each in (path / "longest.jsonl", path):
            os.utime(each, (0, 0))  # to a clock that has jumped ahead, everything is old
    assert await sweep_runs(records.jobs, runs, checks, keep_s=0, grace_s=600) == []
    process_clock.advance(600)
    (running / "spec.json").write_text("{}")
    assert await sweep_runs(records.jobs, runs, checks, keep_s=0, grace_s=600) == [killed.name]
    assert running.exists()


async def test_a_run_of_a_job_that_the_database_does_not_know_stays(records: Records, runs: Path) -> None:
    (runs / "ftjob-of-a-newer-backup").mkdir(parents=True)
    assert await sweep_runs(records.jobs, runs, OrphanAges(), keep_s=0, grace_s=0) == []
    assert (runs / "ftjob-of-a-newer-backup").exists()


async def test_a_check_that_ends_during_the_sweep_disturbs_nothing(
    records: Records, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (runs / "patchbay-check-a").mkdir(parents=True)
    monkeypatch.setattr(run_sweep, "_names_in", lambda _: ["patchbay-check-a", "patchbay-check-gone"])
    assert await sweep_runs(records.jobs, runs, OrphanAges(), keep_s=0, grace_s=0) == ["patchbay-check-a"]


async def test_a_server_that_has_trained_nothing_sweeps_nothing(records: Records, runs: Path) -> None:
    assert await sweep_runs(records.jobs, runs, OrphanAges(), keep_s=0, grace_s=0) == []
