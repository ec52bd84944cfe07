from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest
from sqlalchemy.exc import StatementError

from tests.postgres import on_both_databases
from tests.trainer.conftest import ClockAhead, Create, Upload
from trainer.errors import LeaseLost
from trainer.jobs.checkpoints import CheckpointDraft
from trainer.jobs.events import EventDraft, Level
from trainer.jobs.job import Failure
from trainer.jobs.queue import MAX_DEATHS, Claim, ClaimOrder
from trainer.jobs.state import JobState
from trainer.records import Records

pytestmark = on_both_databases

LEASE_S = 60

Take = Callable[..., Awaitable[Claim]]
"""Takes the name of a worker."""


@pytest.fixture
def take(records: Records) -> Take:
    """Takes a job, of which there must be one."""

    async def take(worker: str = "one") -> Claim:
        claim = await records.queue.take(worker, LEASE_S)
        assert claim is not None
        return claim

    return take


async def messages(records: Records, job_id: str) -> list[str]:
    return [event.message for event in (await records.events.list(job_id, limit=100)).data]


async def test_the_oldest_job_is_taken_first(enqueue: Create, create: Create, take: Take, records: Records):
    await create()
    jobs = [await enqueue() for _ in range(3)]
    assert [(await take()).job.id for _ in jobs] == [job.id for job in jobs]
    assert await records.queue.take("one", LEASE_S) is None


async def test_projects_take_turns_however_many_jobs_one_of_them_has(
    enqueue: Create, take: Take, records: Records, upload: Upload
):
    files = {project: await upload(project=project) for project in ("acme", "globex")}
    flood = [(await enqueue(project="acme", training_file=files["acme"])).id for _ in range(4)]
    quiet = [(await enqueue(project="globex", training_file=files["globex"])).id for _ in range(2)]
    held = [await take() for _ in range(2)]
    assert [claim.job.id for claim in held] == [flood[0], quiet[0]]
    for claim in held:
        await records.queue.fail(claim, Failure("x", "x"))
    order = []
    for _ in range(3):
        claim = await take()
        order.append(claim.job.id)
        await records.queue.fail(claim, Failure("x", "x"))
    assert order == [flood[1], quiet[1], flood[2]]


async def test_a_claim_shows_the_job_as_taken(enqueue: Create, take: Take, records: Records):
    await enqueue()
    claim = await take("one")
    assert claim.job == await records.jobs.get(claim.job.id)
    assert (claim.job.state, claim.job.worker, claim.token) == (JobState.RUNNING, "one", 1)


async def test_a_job_whose_worker_went_silent_is_taken_by_another(
    enqueue: Create, take: Take, records: Records, clock: ClockAhead
):
    await enqueue()
    first = await take("one")
    clock.advance(LEASE_S - 5)
    assert await records.queue.take("two", LEASE_S) is None
    clock.advance(10)
    second = await take("two")
    assert (second.job.id, second.token, second.job.deaths) == (first.job.id, 2, 1)
    assert any("worker 'one' did not renew its lease" in message for message in await messages(records, first.job.id))


async def test_every_write_of_a_superseded_worker_is_refused(
    enqueue: Create, take: Take, records: Records, clock: ClockAhead
):
    await enqueue()
    stale = await take("one")
    clock.advance(LEASE_S + 1)
    await take("two")
    before = await records.jobs.get(stale.job.id), await messages(records, stale.job.id)
    queue = records.queue
    for late in (
        queue.heartbeat(stale),
        queue.record(stale, events=[EventDraft("late")], checkpoints=[CheckpointDraft(1, "m", {})], remaining_s=1),
        queue.succeed(stale, fine_tuned_model="stale", trained_tokens=1),
        queue.fail(stale, Failure("bad", "bad")),
        queue.release(stale),
        queue.retry(stale, "it died"),
    ):
        with pytest.raises(LeaseLost, match="its last attempt was 2 and this is 1"):
            await late
    assert (await records.jobs.get(stale.job.id), await messages(records, stale.job.id)) == before
    assert (await records.checkpoints.list(stale.job.id)).data == ()


@pytest.mark.parametrize("renew", ["heartbeat", "record"])
async def test_a_sign_of_life_renews_the_lease(
    enqueue: Create, take: Take, records: Records, clock: ClockAhead, renew: str
):
    await enqueue()
    claim = await take()
    for _ in range(3):
        clock.advance(LEASE_S - 5)
        assert await getattr(records.queue, renew)(claim) == ClaimOrder.GO_ON
    assert await records.queue.take("two", LEASE_S) is None


async def test_a_late_worker_keeps_a_job_that_nobody_took(
    enqueue: Create, take: Take, records: Records, clock: ClockAhead
):
    await enqueue()
    claim = await take()
    clock.advance(10 * LEASE_S)
    await records.queue.heartbeat(claim)
    assert await records.queue.take("two", LEASE_S) is None


async def test_a_worker_hears_of_a_pause_and_of_its_withdrawal(enqueue: Create, take: Take, records: Records):
    await enqueue()
    claim = await take()
    await records.jobs.pause(claim.job.id)
    assert await records.queue.heartbeat(claim) == await records.queue.record(claim) == ClaimOrder.PAUSE
    await records.jobs.resume(claim.job.id)
    assert await records.queue.heartbeat(claim) == await records.queue.record(claim) == ClaimOrder.GO_ON


async def test_a_worker_hears_of_a_cancellation_and_writes_nothing_more(enqueue: Create, take: Take, records: Records):
    await enqueue()
    claim = await take()
    await records.jobs.cancel(claim.job.id)
    assert await records.queue.heartbeat(claim) == ClaimOrder.STOP
    with pytest.raises(LeaseLost, match="the job is cancelled"):
        await records.queue.succeed(claim, fine_tuned_model="m", trained_tokens=1)
    assert (await records.jobs.get(claim.job.id)).fine_tuned_model is None


async def test_a_pause_that_was_withdrawn_while_the_worker_obeyed_queues_the_job(
    enqueue: Create, take: Take, records: Records
):
    await enqueue()
    claim = await take()
    await records.jobs.pause(claim.job.id)
    await records.jobs.resume(claim.job.id)
    assert (await records.queue.release(claim)).state == JobState.QUEUED
    assert (await take()).job.id == claim.job.id


async def test_a_job_whose_worker_dies_while_pausing_is_paused(
    enqueue: Create, take: Take, records: Records, clock: ClockAhead
):
    await enqueue()
    claim = await take()
    await records.jobs.pause(claim.job.id)
    clock.advance(LEASE_S)
    assert await records.queue.take("two", LEASE_S) is None
    assert (await records.jobs.get(claim.job.id)).state == JobState.PAUSED


async def test_giving_a_job_back_is_no_death(enqueue: Create, take: Take, records: Records):
    await enqueue()
    for _ in range(2 * MAX_DEATHS):
        job = await records.queue.release(await take())
        assert (job.state, job.deaths) == (JobState.QUEUED, 0)


async def test_a_job_fails_after_too_many_deaths(enqueue: Create, take: Take, records: Records, clock: ClockAhead):
    job = await enqueue()
    for _ in range(MAX_DEATHS - 1):
        assert (await records.queue.retry(await take(), "out of memory")).state == JobState.QUEUED
    await take("last")
    clock.advance(LEASE_S)
    assert await records.queue.take("one", LEASE_S) is None
    failed = await records.jobs.get(job.id)
    assert (failed.state, failed.deaths) == (JobState.FAILED, MAX_DEATHS)
    assert failed.error is not None
    assert failed.error.code == "too_many_deaths"
    assert "3 attempts died without a new checkpoint" in failed.error.message
    assert "worker 'last' did not renew its lease" in failed.error.message
    assert (await records.events.list(job.id)).data[0].level == Level.ERROR


async def test_a_job_that_fails_does_not_keep_the_next_from_being_taken(
    enqueue: Create, take: Take, records: Records, clock: ClockAhead
):
    await enqueue()
    for _ in range(MAX_DEATHS):
        await take()
        clock.advance(LEASE_S)
    after = await enqueue()
    assert (await take()).job.id == after.id


async def test_a_new_checkpoint_forgives_the_deaths_before_it(enqueue: Create, take: Take, records: Records):
    job = await enqueue()
    for step in range(2 * MAX_DEATHS):
        claim = await take()
        await records.queue.record(claim, checkpoints=[CheckpointDraft(step, f"m:ckpt-step-{step}", {})])
        assert (await records.queue.retry(claim, "killed")).deaths == 1
    for _ in range(MAX_DEATHS - 1):
        claim = await take()
        await records.queue.record(claim, checkpoints=[CheckpointDraft(0, "again", {})])
        await records.queue.retry(claim, "killed")
    assert (await records.jobs.get(job.id)).state == JobState.FAILED


async def test_resuming_forgives_the_deaths_before_it(enqueue: Create, take: Take, records: Records):
    job = await enqueue()
    for _ in range(MAX_DEATHS - 1):
        await records.queue.retry(await take(), "killed")
    await records.jobs.pause(job.id)
    assert (await records.jobs.resume(job.id)).deaths == 0


async def test_success_is_written_whole(enqueue: Create, take: Take, records: Records, clock: ClockAhead):
    await enqueue()
    claim = await take()
    clock.advance(5)
    await records.queue.record(claim, remaining_s=100)
    running = await records.jobs.get(claim.job.id)
    assert running.estimated_finish is not None
    assert timedelta(seconds=105) <= running.estimated_finish - running.created_at < timedelta(seconds=160)
    done = await records.queue.succeed(claim, fine_tuned_model="sql@1", trained_tokens=99, result_files=["file-a"])
    assert done == await records.jobs.get(claim.job.id)
    assert (done.state, done.fine_tuned_model, done.trained_tokens) == (JobState.SUCCEEDED, "sql@1", 99)
    assert (done.result_files, done.estimated_finish, done.worker) == (("file-a",), None, None)
    assert done.finished_at is not None
    assert (await messages(records, done.id))[:2] == [
        "The job has successfully completed",
        "New fine-tuned model created: sql@1",
    ]


async def test_failure_says_why(enqueue: Create, take: Take, records: Records):
    await enqueue()
    error = Failure("non_finite", "the loss was NaN at step 7")
    failed = await records.queue.fail(await take(), error, data={"step": 7})
    assert (failed.state, failed.error) == (JobState.FAILED, error)
    event = (await records.events.list(failed.id)).data[0]
    assert (event.level, event.data) == ("error", {"step": 7})
    assert error.message in event.message


async def test_a_record_is_written_whole_or_not_at_all(enqueue: Create, take: Take, records: Records):
    await enqueue()
    claim = await take()
    before = await messages(records, claim.job.id)
    with pytest.raises((StatementError, TypeError)):  # psycopg writes JSON itself, and raises the latter
        await records.queue.record(claim, events=[EventDraft("good"), EventDraft("bad", data={"not json": object()})])
    assert await messages(records, claim.job.id) == before


async def test_many_takers_in_one_process_get_a_job_each(enqueue: Create, records: Records):
    jobs = {(await enqueue()).id for _ in range(4)}
    claims = await asyncio.gather(*(records.queue.take(f"worker-{i}", LEASE_S) for i in range(8)))
    assert sorted(claim.job.id for claim in claims if claim) == sorted(jobs)


async def test_the_seconds_that_workers_hold_a_job_are_counted(
    enqueue: Create, take: Take, records: Records, clock: ClockAhead
):
    job = await enqueue()
    claim = await take()
    for seconds in (10, 20):
        clock.advance(seconds)
        await records.queue.heartbeat(claim)
    await records.queue.release(claim)
    clock.advance(1000)  # nobody holds it
    claim = await take("two")
    clock.advance(30)
    await records.queue.succeed(claim, fine_tuned_model="ft:base", trained_tokens=7)
    clock.advance(1000)
    assert (await records.jobs.get(job.id)).trained_seconds == pytest.approx(60, abs=5)


async def test_what_a_job_used_is_taken_once_and_again_as_it_grows(
    enqueue: Create, take: Take, records: Records, clock: ClockAhead
):
    async def taken() -> list[tuple[str, int, float]]:
        async with records.jobs.database.write() as connection:
            used = await records.jobs.take_usage(connection)
        return [(each.job.id, each.tokens, round(each.seconds, -1)) for each in used]

    job = await enqueue(key_id="k")
    assert await taken() == []
    claim = await take()
    clock.advance(10)
    await records.queue.heartbeat(claim)
    assert await taken() == [(job.id, 0, 10)]
    assert await taken() == []
    clock.advance(50)
    await records.queue.succeed(claim, fine_tuned_model="ft:base", trained_tokens=7)
    assert await taken() == [(job.id, 7, 50)]
    assert await taken() == []
