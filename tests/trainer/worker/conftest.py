"""A worker with real training processes, and a fake publisher instead of a server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import embedded
from adapters.errors import PatchbayError
from tests.trainer.conftest import Create, Upload
from tests.until import Until
from tests.until import until as wait_until
from trainer.job_preflight import JobPreflight, TrainingBase
from trainer.jobs.job import Job, JobDraft, Json
from trainer.jobs.state import JOB_STATES, JobState
from trainer.policy_sampling import PolicyAnswer, PolicyAnswers, PolicyRequest
from trainer.records import Records
from trainer.renderer_options import RendererOptions
from trainer.rendering.rendering import render
from trainer.run_directory import RunDirectory
from trainer.run_spec import RunSpec
from trainer.worker.worker import Worker

ROWS = b"\n".join((embedded.DATA / "sentiment" / "train.jsonl").read_bytes().splitlines()[:24]) + b"\n"
NUMBERS = {"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 1.0}
STEPS = 12
SUPERVISED = {"type": "supervised", "supervised": {"hyperparameters": NUMBERS}}

until = partial(wait_until, within_s=240.0, every_s=0.05)


class FakePublisher:
    """Records what is published, or refuses it. See ``trainer.worker.attempt.Publishing``."""

    def __init__(self) -> None:
        self.checkpoints: list[int] = []
        self.results: list[str] = []
        self.refuses_checkpoints: PatchbayError | None = None
        self.refuses_results: PatchbayError | None = None

    async def checkpoint(self, job_id: str, step: int, claim: int) -> str:
        if self.refuses_checkpoints is not None:
            raise self.refuses_checkpoints
        self.checkpoints.append(step)
        return f"ft:base:me::{job_id}:ckpt-step-{step}"

    async def result(self, job_id: str, claim: int) -> str:
        if self.refuses_results is not None:
            raise self.refuses_results
        self.results.append(job_id)
        return f"ft:base:me::{job_id}"


@pytest.fixture
def publisher() -> FakePublisher:
    return FakePublisher()


class FakePolicySampling:
    """Draws two tokens as each answer, of which those to even rows are good; or refuses to."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, PolicyRequest]] = []
        self.troubles: list[PatchbayError] = []
        """Raised one after the other, before anything is drawn."""

    async def sample(self, job_id: str, request: PolicyRequest, claim: int) -> PolicyAnswers:
        self.requests.append((job_id, request))
        if self.troubles:
            raise self.troubles.pop(0)
        rewards = [float(number % 2) for number in range(request.samples)]
        drawn = [PolicyAnswer(ids=[5, 6], logprobs=[-9.0, -9.0], text="ok", reward=reward) for reward in rewards]
        return PolicyAnswers(answers=[drawn] * len(request.prompts))


@pytest.fixture
def sampling() -> FakePolicySampling:
    return FakePolicySampling()


@pytest.fixture
def worker(records: Records, publisher: FakePublisher, sampling: FakePolicySampling, tmp_path: Path) -> Worker:
    return Worker(records, tmp_path / "runs", publisher, sampling, "worker-1", stall_s=15.0)


@pytest.fixture
def ask(records: Records, upload: Upload, worker: Worker) -> Create:
    """Creates a job and waits until its preflight has queued it."""

    async def preflight(spec: RunSpec, run: RunDirectory, _may_write: object) -> dict[str, Any]:
        run.write_spec(spec)
        await asyncio.to_thread(render, run)  # in this process, which imports vLLM once for all jobs
        report = {"ok": True, "rows": 24, "faults": [], "warnings": [], "left_out": 0}
        numbers = {name: getattr(spec, name) for name in NUMBERS} | {"steps": STEPS}
        return {"ok": True, "training": report, "validation": None, "hyperparameters": numbers, "renderer_sha256": "0"}

    async def base() -> TrainingBase:
        return TrainingBase(embedded.BASE, RendererOptions(), "base")

    async def ask(method: Json = SUPERVISED, rows: bytes = ROWS, **extension: Any) -> Job:
        extension = {"rank": 8, "checkpoint_steps": 3, "adapter": "mood", **extension}
        draft = JobDraft("embedded-base", await upload(rows), method, seed=1, extension=extension)
        job = await records.jobs.create(draft)
        loop = JobPreflight(
            records,
            worker.runs,
            name="checker",
            base=base,
            adapter=None,  # type: ignore[arg-type]
            preflight=preflight,
            threads=1,
        )
        running = asyncio.create_task(loop.run())
        await until(lambda: _is(records, job, JobState.QUEUED))
        running.cancel()
        return job

    return ask


async def _is(records: Records, job: Job, state: JobState) -> bool:
    return (await records.jobs.get(job.id)).state is state


@pytest.fixture(name="until")
def until_() -> Until:
    return until


@pytest.fixture
def ended(records: Records) -> Callable[[Job], Awaitable[Job]]:
    """Waits until a job has ended."""

    async def ended(job: Job) -> Job:
        async def now() -> Job | None:
            found = await records.jobs.get(job.id)
            return found if found.state in JOB_STATES.terminal else None

        found: Job = await until(now)
        return found

    return ended


@pytest.fixture
def child_of() -> Callable[[RunDirectory], int | None]:
    """Finds the process that trains in a run directory."""

    def find(run: RunDirectory) -> int | None:
        for process in Path("/proc").iterdir():
            if process.name.isdigit():
                try:
                    words = (process / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if b"trainer.methods" in words and str(run.path).encode() in words:
                    return int(process.name)
        return None

    return find
