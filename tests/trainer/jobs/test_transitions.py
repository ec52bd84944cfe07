"""Every verb leads where the drawing says; one that is not allowed is refused and changes nothing."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.trainer.conftest import Create
from trainer.errors import IllegalTransition, LeaseLost
from trainer.jobs.job import Failure, Job
from trainer.jobs.queue import Claim, ClaimOrder
from trainer.jobs.state import HELD, JOB_STATES, JobState, Verb
from trainer.records import Records

WAY_TO = {
    JobState.VALIDATING_FILES: [],
    JobState.QUEUED: [Verb.ADMIT],
    JobState.RUNNING: [Verb.ADMIT, Verb.TAKE],
    JobState.PAUSING: [Verb.ADMIT, Verb.TAKE, Verb.PAUSE],
    JobState.PAUSED: [Verb.ADMIT, Verb.TAKE, Verb.PAUSE, Verb.RELEASE],
    JobState.SUCCEEDED: [Verb.ADMIT, Verb.TAKE, Verb.SUCCEED],
    JobState.FAILED: [Verb.ADMIT, Verb.TAKE, Verb.FAIL],
    JobState.CANCELLED: [Verb.ADMIT, Verb.TAKE, Verb.CANCEL],
}

EDGES = [(verb, start, end) for verb, edges in JOB_STATES.moves.items() for start, end in edges.items()]
NO_EDGES = [(verb, start) for verb, start in itertools.product(Verb, JobState) if start not in JOB_STATES.moves[verb]]


class Actor:
    """Does verbs to one job, as its owner and as its worker."""

    def __init__(self, records: Records, job: Job) -> None:
        self.records, self.job_id = records, job.id
        self.claim = Claim(job, "worker", job.token, 3600)

    async def do(self, verb: Verb) -> Any:
        jobs, queue, claim = self.records.jobs, self.records.queue, self.claim
        match verb:
            case Verb.ADMIT:
                return await jobs.admit(self.job_id, {"type": "supervised"})
            case Verb.REJECT:
                return await jobs.reject(self.job_id, Failure("bad", "bad"))
            case Verb.PAUSE | Verb.RESUME | Verb.CANCEL:
                return await getattr(jobs, verb)(self.job_id)
            case Verb.TAKE:
                taken = await queue.take("worker", 3600)
                self.claim = taken or claim
                return taken
            case Verb.RELEASE:
                return await queue.release(claim)
            case Verb.SUCCEED:
                return await queue.succeed(claim, fine_tuned_model="ft:base", trained_tokens=1)
            case Verb.FAIL:
                return await queue.fail(claim, Failure("bad", "bad"))


@pytest.fixture
async def actor_in(records: Records, create: Create) -> Callable[..., Awaitable[Actor]]:
    """Brings a new job into a state."""

    async def actor_in(wanted: JobState) -> Actor:
        actor = Actor(records, await create())
        for verb in WAY_TO[wanted]:
            await actor.do(verb)
        return actor

    return actor_in


async def seen(records: Records, actor: Actor) -> tuple[Job, tuple[Any, ...]]:
    return await records.jobs.get(actor.job_id), (await records.events.list(actor.job_id, limit=100)).data


@pytest.mark.parametrize(("verb", "start", "end"), EDGES)
async def test_an_edge_leads_where_the_diagram_says_and_leaves_an_event(
    records: Records, actor_in: Callable[..., Awaitable[Actor]], verb: Verb, start: JobState, end: JobState
):
    actor = await actor_in(start)
    before, events_before = await seen(records, actor)
    assert before.state == start
    await actor.do(verb)
    after, events_after = await seen(records, actor)
    assert after.state == end
    assert len(events_after) > len(events_before)
    assert events_after[-len(events_before) :] == events_before
    assert (after.worker is not None) == (end in HELD)
    assert (after.finished_at is not None) == (end in JOB_STATES.terminal)
    assert (after.error is not None) == (end == JobState.FAILED)


@pytest.mark.parametrize(("verb", "start"), NO_EDGES)
async def test_what_is_no_edge_is_refused_and_changes_nothing(
    records: Records, actor_in: Callable[..., Awaitable[Actor]], verb: Verb, start: JobState
):
    actor = await actor_in(start)
    before = await seen(records, actor)
    if verb == Verb.TAKE:
        assert await actor.do(verb) is None
    elif verb in (Verb.SUCCEED, Verb.FAIL, Verb.RELEASE):
        with pytest.raises(LeaseLost, match=f"is {start}"):
            await actor.do(verb)
    else:
        with pytest.raises(IllegalTransition, match=f"is {start}, which does not allow {verb};") as refused:
            await actor.do(verb)
        assert refused.value.details == {"status": start}
    assert await seen(records, actor) == before


@pytest.mark.parametrize("start", sorted(frozenset(JobState) - HELD))
async def test_a_worker_can_write_nothing_about_a_job_that_nobody_holds(
    records: Records, actor_in: Callable[..., Awaitable[Actor]], start: JobState
):
    actor = await actor_in(start)
    before = await seen(records, actor)
    with pytest.raises(LeaseLost):
        await records.queue.record(actor.claim, remaining_s=1)
    with pytest.raises(LeaseLost):
        await records.queue.retry(actor.claim, "it died")
    if start == JobState.CANCELLED:
        assert await records.queue.heartbeat(actor.claim) == ClaimOrder.STOP
    else:
        with pytest.raises(LeaseLost):
            await records.queue.heartbeat(actor.claim)
    assert await seen(records, actor) == before


def test_every_state_is_reached_and_the_ends_are_the_ends():
    assert {end for _, _, end in EDGES} | {JobState.VALIDATING_FILES} == set(JobState)
    assert {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED} == JOB_STATES.terminal
    assert {JobState.RUNNING, JobState.PAUSING} == HELD
