"""A worker on real children: a job in, an adapter out, whatever dies in between."""

from __future__ import annotations

import asyncio
import os
import signal
from datetime import UTC, datetime
from pathlib import Path

import pytest

import embedded
from adapters.errors import AdapterRefused, Fault
from adapters.versions import Version
from trainer.jobs.job import JobDraft
from trainer.jobs.state import TERMINAL, State
from trainer.run_directory import RunDirectory
from trainer.worker.worker import Worker

ROWS = b"\n".join((embedded.DATA / "sentiment" / "train.jsonl").read_bytes().splitlines()[:24]) + b"\n"
METHOD = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 4}}}


class Shelf:
    """Where published adapters end up."""

    def __init__(self) -> None:
        self.published: list[tuple[str, Path, str]] = []
        self.refusal: Exception | None = None

    async def __call__(self, adapter: str, directory: Path, origin: str) -> Version:
        if self.refusal is not None:
            raise self.refusal
        self.published.append((adapter, directory, origin))
        return Version(7, adapter, 3, "0" * 64, "f", 8, 1, origin, datetime.now(UTC))


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def worker(records, shelf, tmp_path) -> Worker:
    return Worker(records, tmp_path / "runs", lambda: embedded.BASE, shelf, "worker-1", threads=1)


@pytest.fixture
def ask(records, upload):
    async def ask(**extension):
        draft = JobDraft(
            model="embedded-base",
            training_file=await upload(ROWS),
            method=METHOD,
            seed=1,
            extension={"rank": 8, "checkpoint_steps": 3, **extension},
        )
        job = await records.jobs.create(draft)
        return await records.jobs.admit(job.id, METHOD)

    return ask


async def until(condition, within_s=120.0):
    async with asyncio.timeout(within_s):
        while not (found := await condition()):
            await asyncio.sleep(0.1)
    return found


async def ended(records, job):
    async def now():
        found = await records.jobs.get(job.id)
        return found if found.state in TERMINAL else None

    return await until(now)


async def test_a_job_becomes_a_version_of_the_adapter_it_names(records, worker, shelf, ask):
    job = await ask(adapter="mood")
    working = asyncio.create_task(worker.run())
    done = await ended(records, job)
    working.cancel()
    assert (done.state, done.fine_tuned_model, done.error) == (State.SUCCEEDED, "mood@3", None)
    assert done.trained_tokens > 0
    ((adapter, directory, origin),) = shelf.published
    assert (adapter, origin) == ("mood", f"job:{job.id}")
    assert sorted(path.name for path in directory.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    metrics = [event.data for event in (await records.events.list(job.id, limit=100)).data if event.type == "metrics"]
    assert any("train_loss" in (data or {}) for data in metrics)


async def test_a_killed_child_is_started_again_and_the_job_still_succeeds(records, worker, shelf, ask):
    job = await ask(adapter="mood")
    working = asyncio.create_task(worker.run())
    run = RunDirectory(worker.runs / job.id)

    async def has_checkpoint():
        return bool(run.checkpoints())

    await until(has_checkpoint)
    os.kill(_child_of(run), signal.SIGKILL)
    done = await ended(records, job)
    working.cancel()
    assert done.state is State.SUCCEEDED
    assert done.token == 2
    assert len(shelf.published) == 1


async def test_a_cancelled_job_ends_its_child_and_publishes_nothing(records, worker, shelf, ask):
    job = await ask(adapter="mood")
    working = asyncio.create_task(worker.run())
    run = RunDirectory(worker.runs / job.id)

    async def has_started():
        return run.events_file.exists()

    await until(has_started)
    child = _child_of(run)
    await records.jobs.cancel(job.id)

    async def has_ended():
        return not Path(f"/proc/{child}").exists()

    await until(has_ended)
    working.cancel()
    assert (await records.jobs.get(job.id)).state is State.CANCELLED
    assert shelf.published == []


async def test_what_the_door_refuses_fails_the_job_with_the_doors_words(records, worker, shelf, ask):
    shelf.refusal = AdapterRefused([Fault("lora_A", "rank 8", "at most 4")])
    job = await ask(adapter="mood")
    working = asyncio.create_task(worker.run())
    done = await ended(records, job)
    working.cancel()
    assert done.state is State.FAILED
    assert done.error.code == "adapter_refused"
    assert "at most 4" in done.error.message


def _child_of(run: RunDirectory) -> int:
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                words = (process / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"trainer.methods" in words and str(run.path).encode() in words:
                return int(process.name)
    raise AssertionError("no child runs")
