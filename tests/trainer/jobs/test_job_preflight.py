"""The preflight of jobs, side by side: slow, broken, cancelled and unlucky checks."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from adapters.errors import StorageFull
from tests.trainer.conftest import Create, Upload
from tests.until import until
from trainer import job_preflight
from trainer.job_preflight import JobPreflight, TrainingBase
from trainer.jobs.job import Job
from trainer.jobs.state import JobState
from trainer.records import Records
from trainer.renderer_options import RendererOptions
from trainer.run_directory import RunDirectory
from trainer.run_spec import RunSpec

CHECKED = {"ok": True, "rows": 1, "faults": [], "warnings": [], "left_out": 0}
REPORT = {"ok": True, "training": CHECKED, "validation": None, "hyperparameters": {"n_epochs": 1}}

Check = Callable[[], Awaitable[None]]
"""What the check of a job does before it reports."""


class Checks:
    """A preflight whose checks the test scripts, by the id of their job."""

    def __init__(self) -> None:
        self.scripts: dict[str, list[Check]] = {}
        self.begun = 0
        self.ended = 0

    async def __call__(
        self, spec: RunSpec, run: RunDirectory, may_write: Callable[[], Awaitable[None]]
    ) -> dict[str, Any]:
        waiting = self.scripts.get(run.path.name, [])
        script = waiting.pop(0) if waiting else nothing
        self.begun += 1
        try:
            await script()
        finally:
            self.ended += 1
        return {**REPORT, "renderer_sha256": "0"}


async def nothing() -> None:
    return


async def for_ever() -> None:
    await asyncio.Event().wait()


def failing(error: Exception) -> Check:
    async def fail() -> None:
        raise error

    return fail


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> Checks:
    monkeypatch.setattr(job_preflight, "RETRY_S", 0.0)
    monkeypatch.setattr(job_preflight, "LOOK_S", 0.01)
    return Checks()


@pytest.fixture
def running(records: Records, checks: Checks, tmp_path: Path):
    """Runs the preflight of jobs for a block."""

    @asynccontextmanager
    async def run(max_s: float = 60.0, name: str = "checker", base: str = "base") -> AsyncIterator[None]:
        async def training_base() -> TrainingBase:
            return TrainingBase(tmp_path, RendererOptions(), base)

        async def adapter(name: str) -> Path:
            return tmp_path / name

        preflight = JobPreflight(
            records,
            tmp_path / "runs",
            name=name,
            base=training_base,
            adapter=adapter,
            preflight=checks,
            threads=1,
            max_s=max_s,
        )
        task = asyncio.create_task(preflight.run())
        yield
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    return run


@pytest.fixture
def is_now(records: Records) -> Callable[[Job, JobState], Callable[[], Awaitable[bool]]]:
    def is_now(job: Job, state: JobState) -> Callable[[], Awaitable[bool]]:
        async def check() -> bool:
            return (await records.jobs.get(job.id)).state is state

        return check

    return is_now


async def test_a_slow_check_does_not_hold_up_the_next_job(create: Create, checks: Checks, running, is_now) -> None:
    slow, quick = await create(), await create()
    checks.scripts = {slow.id: [for_ever]}
    async with running():
        await until(is_now(quick, JobState.QUEUED))
        assert await is_now(slow, JobState.VALIDATING_FILES)()


async def test_the_check_of_a_cancelled_job_is_ended_and_frees_its_place(
    records: Records, create: Create, checks: Checks, running, is_now
) -> None:
    first, second, third = [await create() for _ in range(3)]
    checks.scripts = {first.id: [for_ever], second.id: [for_ever]}
    async with running():
        await until(lambda: checks.begun == 2)
        await records.jobs.cancel(first.id)
        await until(is_now(third, JobState.QUEUED))
        assert checks.ended == 2
        assert await is_now(second, JobState.VALIDATING_FILES)()


async def test_a_check_that_takes_too_long_rejects_its_job(
    records: Records, create: Create, checks: Checks, running, is_now
) -> None:
    for max_s in (0.05 * 2**tries for tries in count()):  # a busy machine may not begin the check in so short a time
        job = await create()
        checks.scripts = {job.id: [for_ever]}
        async with running(max_s=max_s):
            await until(is_now(job, JobState.FAILED))
        if checks.begun:
            break
    error = (await records.jobs.get(job.id)).error
    assert error is not None
    assert (error.code, "--max-check-s" in error.message) == ("check_too_slow", True)
    assert checks.ended == 1


async def test_an_unforeseen_error_rejects_its_job_after_a_few_tries(
    records: Records, create: Create, checks: Checks, running, is_now
) -> None:
    job = await create()
    checks.scripts = {job.id: [failing(RuntimeError("no such luck"))] * job_preflight.MOST_TRIES}
    async with running():
        await until(is_now(job, JobState.FAILED))
    error = (await records.jobs.get(job.id)).error
    assert error is not None
    assert (error.code, "no such luck" in error.message) == ("check_failed", True)
    assert checks.begun == job_preflight.MOST_TRIES


@pytest.mark.parametrize("trouble", [StorageFull("no space"), OSError(errno.ENOSPC, "No space left on device")])
async def test_trouble_that_passes_is_waited_out(
    create: Create, checks: Checks, running, is_now, trouble: Exception
) -> None:
    job = await create()
    checks.scripts = {job.id: [failing(trouble)] * (3 * job_preflight.MOST_TRIES)}
    async with running():
        await until(is_now(job, JobState.QUEUED))
    assert checks.begun == 3 * job_preflight.MOST_TRIES + 1


async def test_two_processes_divide_the_jobs(create: Create, checks: Checks, running, is_now) -> None:
    jobs = [await create() for _ in range(6)]
    async with running(name="one"), running(name="two"):
        for job in jobs:
            await until(is_now(job, JobState.QUEUED))
    assert checks.begun == len(jobs)


async def test_the_jobs_of_a_process_that_died_are_checked_by_another(
    records: Records, create: Create, running, is_now
) -> None:
    held, forgotten = await create(), await create()
    await records.jobs.hold(held.id, "another process", 3600)
    await records.jobs.hold(forgotten.id, "another process", -1)
    async with running():
        await until(is_now(forgotten, JobState.QUEUED))
        assert await is_now(held, JobState.VALIDATING_FILES)()


async def test_a_check_that_lost_its_job_writes_no_run(
    records: Records, create: Create, checks: Checks, running, is_now, tmp_path: Path
) -> None:
    job = await create()

    async def overtaken() -> None:
        await records.jobs.hold(job.id, "checker", -1)  # it hung for longer than its lease
        await records.jobs.hold(job.id, "another process", 3600)

    checks.scripts = {job.id: [overtaken]}
    async with running():
        await until(lambda: checks.ended == 1)
    assert not (tmp_path / "runs" / job.id / "spec.json").exists()
    assert await is_now(job, JobState.VALIDATING_FILES)()


async def test_a_job_is_checked_and_trained_where_its_base_model_and_its_files_are(
    records: Records, create: Create, running, is_now, tmp_path: Path
) -> None:
    foreign, own = await create(base_fingerprint="other"), await create(base_fingerprint="base")
    async with running():
        await until(is_now(own, JobState.QUEUED))
        assert await is_now(foreign, JobState.VALIDATING_FILES)()
    elsewhere = await Records.open(records.jobs.database, tmp_path / "elsewhere")
    assert await elsewhere.jobs.unvalidated("checker") == []
    assert await elsewhere.queue.take("worker", 60) is None
    assert await records.queue.take("worker", 60, "other") is None
    claim = await records.queue.take("worker", 60, "base")
    assert claim is not None
    assert claim.job.id == own.id


async def test_projects_take_turns_with_the_checks_of_their_jobs(
    create: Create, upload: Upload, checks: Checks, running, is_now
) -> None:
    files = {project: await upload(project=project) for project in ("flood", "other")}
    flood = [await create(project="flood", training_file=files["flood"]) for _ in range(8)]
    job = await create(project="other", training_file=files["other"])
    checks.scripts = {each.id: [for_ever] for each in flood[1:]}
    async with running():
        await until(is_now(job, JobState.QUEUED))
