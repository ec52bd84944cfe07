"""A worker with real training processes, which are killed, stalled, paused, cancelled and refused."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import resource
import signal
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from adapters.errors import AdapterRefused, BlobStoreUnavailable, Fault, PatchbayError, StorageFull, StorageUnavailable
from tests.trainer.conftest import Create
from tests.trainer.worker.conftest import FakePolicySampling, FakePublisher
from tests.until import Until
from trainer.jobs.job import Job
from trainer.jobs.queue import MAX_DEATHS, Claim, Queue
from trainer.jobs.state import JobState
from trainer.records import Records
from trainer.run_directory import RunDirectory
from trainer.worker import attempt
from trainer.worker.worker import Worker

Working = Callable[[], asyncio.Task[None]]
Ended = Callable[[Job], Awaitable[Job]]
FindChild = Callable[[RunDirectory], int | None]
TrainsPast = Callable[[Job, int], Awaitable[None]]
RecordedSteps = Callable[[Job], Awaitable[list[int]]]


class EngineAway(PatchbayError):
    is_passing = True


STEPS, CHECKPOINTS = 12, [3, 6, 9, 12]
SMALL = 64 << 10
"""Bytes: less than a checkpoint, more than events and logs."""


@pytest.fixture
async def working(worker: Worker):
    """Starts the worker; it ends with the test."""
    running: list[asyncio.Task[None]] = []

    def start() -> asyncio.Task[None]:
        running.append(asyncio.create_task(worker.run()))
        return running[-1]

    yield start
    for task in running:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture
def recorded_steps(records: Records):
    """Returns the training steps in a job's log, oldest first."""

    async def recorded(job: Job) -> list[int]:
        events = (await records.events.list(job.id, limit=1000)).data
        data = [event.data for event in reversed(events) if event.type == "metrics"]
        return [each["step"] for each in data if "train_loss" in each]

    return recorded


@pytest.fixture
def trains_past(records: Records, until: Until):
    """Waits until a job's log has reached a step."""

    async def past(job: Job, step: int) -> None:
        async def is_past() -> bool:
            events = (await records.events.list(job.id, limit=1000)).data
            return any((event.data or {}).get("step", 0) >= step for event in events)

        await until(is_past)

    return past


async def test_a_job_ends_with_its_checkpoints_published_its_result_and_its_curves(
    records: Records,
    working: Working,
    publisher: FakePublisher,
    ask: Create,
    ended: Ended,
    recorded_steps: RecordedSteps,
):
    job = await ask()
    working()
    done = await ended(job)
    assert (done.state, done.error, done.fine_tuned_model) == (JobState.SUCCEEDED, None, f"ft:base:me::{job.id}")
    assert (publisher.checkpoints, publisher.results) == (CHECKPOINTS, [job.id])
    recorded = (await records.checkpoints.list(job.id)).data
    assert [(each.step_number, each.model) for each in reversed(recorded)] == [
        (step, f"ft:base:me::{job.id}:ckpt-step-{step}") for step in CHECKPOINTS
    ]
    assert all(each.metrics["train_loss"] > 0 for each in recorded)
    assert await recorded_steps(job) == list(range(1, STEPS + 1))
    assert done.trained_tokens > 0
    table, plot = [await records.files.content(file) for file in done.result_files]
    assert len(table.read_text().splitlines()) == 1 + STEPS
    assert plot.read_bytes().startswith(b"\x89PNG")


async def test_a_child_killed_or_stalled_is_started_again_and_every_event_comes_once(
    worker: Worker,
    working: Working,
    publisher: FakePublisher,
    ask: Create,
    ended: Ended,
    until: Until,
    child_of: FindChild,
    recorded_steps: RecordedSteps,
    trains_past: TrainsPast,
):
    job = await ask()
    run = RunDirectory(worker.runs / job.id)
    working()
    await trains_past(job, 4)
    os.kill(child_of(run), signal.SIGKILL)
    await trains_past(job, 8)
    stalled = child_of(run)
    os.kill(stalled, signal.SIGSTOP)
    done = await ended(job)
    assert (done.state, done.token) == (JobState.SUCCEEDED, 3)
    assert (sorted(set(publisher.checkpoints)), publisher.results) == (CHECKPOINTS, [job.id])
    assert await recorded_steps(job) == list(range(1, STEPS + 1))


async def test_a_stopped_worker_releases_its_job_after_a_checkpoint(
    records: Records,
    worker: Worker,
    working: Working,
    publisher: FakePublisher,
    ask: Create,
    ended: Ended,
    trains_past: TrainsPast,
    recorded_steps: RecordedSteps,
):
    job = await ask(checkpoint_steps=100)
    stopping = working()
    await trains_past(job, 2)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    given_back = await records.jobs.get(job.id)
    assert (given_back.state, given_back.worker, given_back.deaths) == (JobState.QUEUED, None, 0)
    assert RunDirectory(worker.runs / job.id).checkpoints()
    working()
    assert (await ended(job)).state is JobState.SUCCEEDED
    assert await recorded_steps(job) == list(range(1, STEPS + 1))


async def test_a_paused_job_waits_until_it_is_resumed(
    records: Records,
    working: Working,
    ask: Create,
    ended: Ended,
    until: Until,
    trains_past: TrainsPast,
    recorded_steps: RecordedSteps,
):
    job = await ask(checkpoint_steps=100)
    working()
    await trains_past(job, 2)
    await records.jobs.pause(job.id)

    async def is_paused() -> bool:
        return (await records.jobs.get(job.id)).state is JobState.PAUSED

    await until(is_paused)
    await records.jobs.resume(job.id)
    assert (await ended(job)).state is JobState.SUCCEEDED
    assert await recorded_steps(job) == list(range(1, STEPS + 1))


async def test_a_cancelled_job_ends_its_child_and_has_no_result(
    records: Records,
    worker: Worker,
    working: Working,
    publisher: FakePublisher,
    ask: Create,
    until: Until,
    child_of: FindChild,
    trains_past: TrainsPast,
):
    job = await ask()
    working()
    await trains_past(job, 1)
    child = child_of(RunDirectory(worker.runs / job.id))
    await records.jobs.cancel(job.id)

    async def has_ended() -> bool:
        return child_of(RunDirectory(worker.runs / job.id)) != child

    await until(has_ended)
    assert (await records.jobs.get(job.id)).state is JobState.CANCELLED
    assert publisher.results == []


async def test_a_refused_checkpoint_is_reported_and_a_refused_result_fails_the_job(
    records: Records, working: Working, publisher: FakePublisher, ask: Create, ended: Ended
):
    publisher.refuses_checkpoints = publisher.refuses_results = AdapterRefused([Fault("lora_A", "rank 8", "at most 4")])
    job = await ask(checkpoint_steps=6)
    working()
    done = await ended(job)
    assert (done.state, done.error.code) == (JobState.FAILED, "adapter_refused")
    assert "at most 4" in done.error.message
    warned = [event for event in (await records.events.list(job.id, limit=1000)).data if event.level == "warn"]
    assert [event.message.split(":")[0] for event in reversed(warned)] == [
        f"Checkpoint of step {step} was refused" for step in (6, 12)
    ]


async def test_a_publication_waits_until_the_trouble_is_over(
    records: Records, working: Working, publisher: FakePublisher, ask: Create, ended: Ended, until: Until
):
    """The blob store is away when the run ends: neither the checkpoint nor the result is given up."""
    publisher.refuses_checkpoints = publisher.refuses_results = BlobStoreUnavailable("the store is away")
    job = await ask(checkpoint_steps=6)
    working()

    async def waits() -> bool:
        events = (await records.events.list(job.id, limit=1000)).data
        return any("cannot be published yet" in event.message for event in events)

    await until(waits)
    assert (await records.jobs.get(job.id)).state is JobState.RUNNING
    publisher.refuses_checkpoints = publisher.refuses_results = None
    assert (await ended(job)).state is JobState.SUCCEEDED
    assert publisher.checkpoints == [6, 12]


async def test_a_full_disk_ends_no_job_however_often_it_is_met(
    records: Records,
    worker: Worker,
    working: Working,
    ask: Create,
    ended: Ended,
    until: Until,
    child_of: FindChild,
    recorded_steps: RecordedSteps,
    monkeypatch: pytest.MonkeyPatch,
):
    """A child that may write no large file cannot save a checkpoint; more of them end so than may die."""
    monkeypatch.setattr(attempt, "NO_SPACE_S", 0.0)
    job = await ask()
    run = RunDirectory(worker.runs / job.id)
    working()
    seen: set[int | None] = {None}
    for _ in range(MAX_DEATHS + 1):
        child = await until(lambda: None if (found := child_of(run)) in seen else found)
        resource.prlimit(child, resource.RLIMIT_FSIZE, (SMALL, SMALL))
        seen.add(child)
    done = await ended(job)
    assert (done.state, done.deaths, done.token) == (JobState.SUCCEEDED, 0, MAX_DEATHS + 2)
    warned = [event.message for event in (await records.events.list(job.id, limit=1000)).data if event.level == "warn"]
    assert len(warned) == MAX_DEATHS + 1
    assert all(message.startswith("The disk is full") for message in warned)
    assert await recorded_steps(job) == list(range(1, STEPS + 1))


async def test_result_files_wait_for_space(
    records: Records, working: Working, ask: Create, ended: Ended, monkeypatch: pytest.MonkeyPatch
):
    job, create, refusals = await ask(checkpoint_steps=6), type(records.files).create, iter(range(2))

    async def create_later(*arguments: Any, **named: Any) -> Any:
        if next(refusals, None) is not None:
            raise StorageFull("no space")
        return await create(*arguments, **named)

    monkeypatch.setattr(type(records.files), "create", create_later)
    working()
    done = await ended(job)
    assert (done.state, done.token, len(done.result_files)) == (JobState.SUCCEEDED, 1, 2)


async def test_an_idle_worker_waits_for_the_database(
    records: Records, worker: Worker, ask: Create, ended: Ended, monkeypatch: pytest.MonkeyPatch
):
    job, take, refusals = await ask(checkpoint_steps=6), Queue.take, iter(range(2))

    async def take_later(*arguments: Any) -> Claim | None:
        if next(refusals, None) is not None:
            raise StorageUnavailable("the database is away")
        return await take(*arguments)

    monkeypatch.setattr(Queue, "take", take_later)
    running = asyncio.create_task(replace(worker, lease_s=0.01).run())
    try:
        assert (await ended(job)).state is JobState.SUCCEEDED
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_training_goes_on_while_the_database_does_not_answer(
    records: Records,
    working: Working,
    publisher: FakePublisher,
    ask: Create,
    ended: Ended,
    trains_past: TrainsPast,
    recorded_steps: RecordedSteps,
    monkeypatch: pytest.MonkeyPatch,
):
    """No attempt dies of it, no step is trained or logged twice, and the idle worker goes on too."""
    job = await ask()
    answering = records.queue.database.write
    refusals = itertools.count()

    def away():
        next(refusals)
        raise StorageUnavailable("the database is away")

    working()
    await trains_past(job, 3)
    monkeypatch.setattr(records.queue.database, "write", away)
    while next(refusals) < 8:
        await asyncio.sleep(0.05)
    monkeypatch.setattr(records.queue.database, "write", answering)
    assert (await ended(job)).state is JobState.SUCCEEDED
    events = (await records.events.list(job.id, limit=1000)).data
    assert not [event for event in events if "died" in event.message]
    assert await recorded_steps(job) == list(range(1, STEPS + 1))


async def test_a_loss_or_gradient_that_is_not_finite_ends_the_job_without_a_result(
    records: Records, working: Working, publisher: FakePublisher, ask: Create, ended: Ended
):
    job = await ask(alpha=1e30, checkpoint_steps=1)
    working()
    done = await ended(job)
    assert (done.state, done.error.code) == (JobState.FAILED, "not_finite")
    assert "not a finite number at step" in done.error.message
    assert publisher.results == []
    assert len(publisher.checkpoints) < STEPS


TASKS = b"".join(b'{"messages": [{"role": "user", "content": "Say %d."}]}\n' % number for number in range(16))
GRADED = {
    "type": "reinforcement",
    "reinforcement": {
        "grader": {"type": "string_check"},
        "hyperparameters": {"n_epochs": 1, "batch_size": 4, "compute_multiplier": 0.25, "max_completion_tokens": 4},
    },
}


async def test_the_answers_of_a_policy_are_drawn_for_its_job_and_trouble_that_passes_is_waited_out(
    records: Records, working: Working, sampling: FakePolicySampling, ask: Create, ended: Ended
):
    sampling.troubles = [EngineAway("the engine is being rebuilt")]
    job = await ask(GRADED, TASKS)
    working()
    done = await ended(job)
    assert (done.state, done.error) == (JobState.SUCCEEDED, None)
    assert [(job_id, request.step, len(request.prompts), request.samples) for job_id, request in sampling.requests] == [
        (job.id, step, 4, 2) for step in (0, 0, 1, 2, 3)
    ]
    names = [(await records.files.get(file)).filename for file in done.result_files]
    assert "samples.jsonl" in names


async def test_a_job_whose_answers_are_not_drawn_fails_with_the_reason(
    working: Working, sampling: FakePolicySampling, ask: Create, ended: Ended
):
    sampling.troubles = [AdapterRefused([Fault("policy", "no finite probabilities", "finite numbers")])]
    job = await ask(GRADED, TASKS)
    working()
    done = await ended(job)
    assert done.state is JobState.FAILED
    assert done.error is not None
    assert "the server drew no answers at step 0" in done.error.message
    assert "no finite probabilities" in done.error.message


DISTILLED = {
    "type": "distill",
    "distill": {
        "prompt": [{"role": "system", "content": "Be brief."}],
        "hyperparameters": {"n_epochs": 1, "batch_size": 7, "max_completion_tokens": 4},
    },
}


async def test_a_teacher_answers_before_the_first_step_and_the_adapter_after_the_last(
    records: Records, working: Working, sampling: FakePolicySampling, ask: Create, ended: Ended
):
    sampling.troubles = [EngineAway("the engine is being rebuilt")]
    job = await ask(DISTILLED, TASKS)
    working()
    done = await ended(job)
    assert (done.state, done.error) == (JobState.SUCCEEDED, None)
    asked = [(request.step, len(request.prompts)) for _, request in sampling.requests]
    assert asked == [(None, 14), (None, 14), (None, 2), (None, 2), (2, 2)]  # two of 16 questions are held out
    events = (await records.events.list(job.id, limit=100)).data
    measured = [event.data["distillation"] for event in events if "distillation" in (event.data or {})]
    assert [each["agreement"] for each in measured] == [1.0]
