"""A worker on real children: a job in, its checkpoints and its result out, whatever dies in between."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

import pytest

from adapters.errors import AdapterRefused, Fault
from trainer.jobs.state import JobState
from trainer.run_directory import RunDirectory

STEPS, CHECKPOINTS = 12, [3, 6, 9, 12]


@pytest.fixture
async def working(worker):
    """Starts the worker; it ends with the test."""
    running = []

    def start() -> asyncio.Task[None]:
        running.append(asyncio.create_task(worker.run()))
        return running[-1]

    yield start
    for task in running:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture
def steps_told(records):
    """The training steps in a job's log, oldest first."""

    async def told(job):
        events = (await records.events.list(job.id, limit=1000)).data
        data = [event.data for event in reversed(events) if event.type == "metrics"]
        return [each["step"] for each in data if "train_loss" in each]

    return told


@pytest.fixture
def trains_past(records, until):
    """Waits until a job's log has come to a step."""

    async def past(job, step):
        async def is_past():
            events = (await records.events.list(job.id, limit=1000)).data
            return any((event.data or {}).get("step", 0) >= step for event in events)

        await until(is_past)

    return past


async def test_a_job_ends_with_its_checkpoints_published_its_result_and_its_curves(
    records, working, shelf, ask, ended, steps_told
):
    job = await ask()
    working()
    done = await ended(job)
    assert (done.state, done.error, done.fine_tuned_model) == (JobState.SUCCEEDED, None, f"ft:base:me::{job.id}")
    assert (shelf.checkpoints, shelf.results) == (CHECKPOINTS, [job.id])
    noted = (await records.checkpoints.list(job.id)).data
    assert [(each.step_number, each.model) for each in reversed(noted)] == [
        (step, f"ft:base:me::{job.id}:ckpt-step-{step}") for step in CHECKPOINTS
    ]
    assert all(each.metrics["train_loss"] > 0 for each in noted)
    assert await steps_told(job) == list(range(1, STEPS + 1))
    assert done.trained_tokens > 0
    table, plot = [await records.files.content(file) for file in done.result_files]
    assert len(table.read_text().splitlines()) == 1 + STEPS
    assert plot.read_bytes().startswith(b"\x89PNG")


async def test_a_child_killed_or_stalled_is_started_again_and_every_event_comes_once(
    worker, working, shelf, ask, ended, until, child_of, steps_told, trains_past
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
    assert (sorted(set(shelf.checkpoints)), shelf.results) == (CHECKPOINTS, [job.id])
    assert await steps_told(job) == list(range(1, STEPS + 1))


async def test_a_worker_that_is_told_to_stop_gives_the_job_back_after_a_checkpoint(
    records, worker, working, shelf, ask, ended, trains_past, steps_told
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
    assert await steps_told(job) == list(range(1, STEPS + 1))


async def test_a_paused_job_waits_until_it_is_resumed(records, working, ask, ended, until, trains_past, steps_told):
    job = await ask(checkpoint_steps=100)
    working()
    await trains_past(job, 2)
    await records.jobs.pause(job.id)

    async def is_paused():
        return (await records.jobs.get(job.id)).state is JobState.PAUSED

    await until(is_paused)
    await records.jobs.resume(job.id)
    assert (await ended(job)).state is JobState.SUCCEEDED
    assert await steps_told(job) == list(range(1, STEPS + 1))


async def test_a_cancelled_job_ends_its_child_and_has_no_result(
    records, worker, working, shelf, ask, until, child_of, trains_past
):
    job = await ask()
    working()
    await trains_past(job, 1)
    child = child_of(RunDirectory(worker.runs / job.id))
    await records.jobs.cancel(job.id)

    async def has_ended():
        return child_of(RunDirectory(worker.runs / job.id)) != child

    await until(has_ended)
    assert (await records.jobs.get(job.id)).state is JobState.CANCELLED
    assert shelf.results == []


async def test_what_the_door_refuses_is_told_of_and_fails_the_job_with_the_doors_words(
    records, working, shelf, ask, ended
):
    shelf.refuses_checkpoints = shelf.refuses_results = AdapterRefused([Fault("lora_A", "rank 8", "at most 4")])
    job = await ask(checkpoint_steps=6)
    working()
    done = await ended(job)
    assert (done.state, done.error.code) == (JobState.FAILED, "adapter_refused")
    assert "at most 4" in done.error.message
    warned = [event for event in (await records.events.list(job.id, limit=1000)).data if event.level == "warn"]
    assert [event.message.split(":")[0] for event in reversed(warned)] == [
        f"Checkpoint of step {step} was refused" for step in (6, 12)
    ]


async def test_a_loss_or_gradient_that_is_not_finite_ends_the_job_without_a_result(records, working, shelf, ask, ended):
    job = await ask(alpha=1e30, checkpoint_steps=1)
    working()
    done = await ended(job)
    assert (done.state, done.error.code) == (JobState.FAILED, "not_finite")
    assert "not a finite number at step" in done.error.message
    assert shelf.results == []
    assert len(shelf.checkpoints) < STEPS
