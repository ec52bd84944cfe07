"""Jobs and their workers against a model in plain Python: leases run out, stale workers write, stores are reopened."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, precondition, rule
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.errors import PatchbayError
from adapters.storage.database import Database
from trainer.clock import database_clock
from trainer.errors import FileInUse, IllegalTransition, LeaseLost
from trainer.jobs.checkpoints import CheckpointDraft
from trainer.jobs.job import Failure, JobDraft
from trainer.jobs.queue import Claim, ClaimOrder
from trainer.records import Records

T = TypeVar("T")

METHOD = {"type": "supervised"}
LEASE_S = 1000
MAX_DEATHS = 2

workers = st.sampled_from(["one", "two", "three"])


@dataclass
class ModelJob:
    state: str = "validating_files"
    token: int = 0
    worker: str | None = None
    deaths: int = 0
    lease_until: float = 0
    checkpoints: set[int] = field(default_factory=set)
    model: str | None = None
    num_events: int = 2

    @property
    def is_held(self) -> bool:
        return self.state in ("running", "pausing")

    def go(self, state: str, num_events: int = 1) -> None:
        self.state = state
        self.num_events += num_events
        if not self.is_held:
            self.worker = None

    def die(self) -> None:
        self.deaths += 1
        if self.state == "pausing":
            self.go("paused")
        else:
            self.go("failed" if self.deaths >= MAX_DEATHS else "queued")


class JobsAgainstModel(RuleBasedStateMachine):
    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.directory = tempfile.TemporaryDirectory()
        self.ahead = 0.0
        self.jobs: dict[str, ModelJob] = {}
        self.stack = AsyncExitStack()
        self.open()
        self.file_id = self.run(self.records.files.create("fine-tune", "train.jsonl", self.chunks())).id

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    async def chunks(self) -> AsyncIterator[bytes]:
        yield b"{}"

    async def clock(self, connection: AsyncConnection) -> datetime:
        return await database_clock(connection) + timedelta(seconds=self.ahead)

    def open(self) -> None:
        root = Path(self.directory.name)
        database = self.run(self.stack.enter_async_context(Database.open(f"sqlite:///{root / 'registry.db'}")))
        self.records = self.run(Records.open(database, root, max_deaths=MAX_DEATHS, clock=self.clock))

    def teardown(self) -> None:
        self.run(self.stack.aclose())
        self.runner.close()
        self.directory.cleanup()

    def fails_with(self, error: type[PatchbayError], work: Coroutine[Any, Any, Any]) -> None:
        try:
            self.run(work)
        except error:
            return
        raise AssertionError(f"{error.__name__} was not raised")

    def pick(self, index: int) -> tuple[str, ModelJob]:
        job_id = list(self.jobs)[index % len(self.jobs)]
        return job_id, self.jobs[job_id]

    @rule()
    def create(self) -> None:
        draft = JobDraft("base", self.file_id, METHOD)
        self.jobs[self.run(self.records.jobs.create(draft)).id] = ModelJob()

    @precondition(lambda self: self.jobs)
    @rule(index=st.integers(0, 5), is_sound=st.booleans())
    def validate(self, index: int, is_sound: bool) -> None:
        job_id, known = self.pick(index)
        jobs = self.records.jobs
        work = jobs.admit(job_id, METHOD) if is_sound else jobs.reject(job_id, Failure("bad", "bad"))
        if known.state != "validating_files":
            self.fails_with(IllegalTransition, work)
        else:
            self.run(work)
            known.go("queued" if is_sound else "failed")

    @precondition(lambda self: self.jobs)
    @rule(index=st.integers(0, 5))
    def pause(self, index: int) -> None:
        job_id, known = self.pick(index)
        work = self.records.jobs.pause(job_id)
        if known.state not in ("queued", "running"):
            self.fails_with(IllegalTransition, work)
        else:
            self.run(work)
            known.go("paused" if known.state == "queued" else "pausing")

    @precondition(lambda self: self.jobs)
    @rule(index=st.integers(0, 5))
    def resume(self, index: int) -> None:
        job_id, known = self.pick(index)
        work = self.records.jobs.resume(job_id)
        if known.state not in ("paused", "pausing"):
            self.fails_with(IllegalTransition, work)
        else:
            self.run(work)
            known.deaths = 0
            known.go("queued" if known.state == "paused" else "running")

    @precondition(lambda self: self.jobs)
    @rule(index=st.integers(0, 5))
    def cancel(self, index: int) -> None:
        job_id, known = self.pick(index)
        work = self.records.jobs.cancel(job_id)
        if known.state in ("succeeded", "failed", "cancelled"):
            self.fails_with(IllegalTransition, work)
        else:
            self.run(work)
            known.go("cancelled")

    @rule(target=claims, worker=workers)
    def take(self, worker: str) -> Any:
        claim = self.run(self.records.queue.take(worker, LEASE_S))
        for known in self.jobs.values():
            if known.is_held and known.lease_until <= self.ahead:
                known.die()
        waiting = [job_id for job_id, known in self.jobs.items() if known.state == "queued"]
        if not waiting:
            assert claim is None
            return multiple()
        assert claim is not None
        assert claim.job.id == waiting[0]
        known = self.jobs[waiting[0]]
        known.token, known.worker, known.lease_until = known.token + 1, worker, self.ahead + LEASE_S
        known.go("running")
        assert claim.token == known.token
        return claim

    @rule(seconds=st.sampled_from([400, 1001]))
    def wait(self, seconds: int) -> None:
        self.ahead += seconds

    def held(self, claim: Claim) -> ModelJob | None:
        """What the model knows of the claim's job, if the claim still holds it; the lease is then as new."""
        known = self.jobs[claim.job.id]
        if not known.is_held or known.token != claim.token:
            return None
        known.lease_until = self.ahead + LEASE_S
        return known

    @rule(claim=claims)
    def heartbeat(self, claim: Claim) -> None:
        work = self.records.queue.heartbeat(claim)
        if known := self.held(claim):
            assert self.run(work) == (ClaimOrder.PAUSE if known.state == "pausing" else ClaimOrder.GO_ON)
        elif (self.jobs[claim.job.id].state, self.jobs[claim.job.id].token) == ("cancelled", claim.token):
            assert self.run(work) == ClaimOrder.STOP
        else:
            self.fails_with(LeaseLost, work)

    @rule(claim=claims, step=st.integers(1, 3))
    def reach(self, claim: Claim, step: int) -> None:
        draft = CheckpointDraft(step, f"{claim.job.id}:ckpt-step-{step}", {})
        work = self.records.queue.record(claim, checkpoints=[draft])
        if known := self.held(claim):
            self.run(work)
            if step not in known.checkpoints:
                known.checkpoints.add(step)
                known.deaths = 0
                known.num_events += 1
        else:
            self.fails_with(LeaseLost, work)

    @rule(claim=claims)
    def succeed(self, claim: Claim) -> None:
        model = f"{claim.job.id}-{claim.token}"
        work = self.records.queue.succeed(claim, fine_tuned_model=model, trained_tokens=1)
        if known := self.held(claim):
            self.run(work)
            known.model = model
            known.go("succeeded", num_events=2)
        else:
            self.fails_with(LeaseLost, work)

    @rule(claim=claims)
    def fail(self, claim: Claim) -> None:
        work = self.records.queue.fail(claim, Failure("bad", "bad"))
        if known := self.held(claim):
            self.run(work)
            known.go("failed")
        else:
            self.fails_with(LeaseLost, work)

    @rule(claim=claims)
    def release(self, claim: Claim) -> None:
        work = self.records.queue.release(claim)
        if known := self.held(claim):
            self.run(work)
            known.go("paused" if known.state == "pausing" else "queued")
        else:
            self.fails_with(LeaseLost, work)

    @rule(claim=claims)
    def retry(self, claim: Claim) -> None:
        work = self.records.queue.retry(claim, "killed")
        if known := self.held(claim):
            self.run(work)
            known.die()
        else:
            self.fails_with(LeaseLost, work)

    @precondition(
        lambda self: any(known.state not in ("succeeded", "failed", "cancelled") for known in self.jobs.values())
    )
    @rule()
    def delete_the_file(self) -> None:
        self.fails_with(FileInUse, self.records.files.delete(self.file_id))

    @rule()
    def reopen(self) -> None:
        self.run(self.stack.aclose())
        self.open()

    @invariant()
    def the_store_agrees_with_the_model(self) -> None:
        self.run(self.compare())

    async def compare(self) -> None:
        for job_id, known in self.jobs.items():
            job = await self.records.jobs.get(job_id)
            found = (job.state, job.token, job.worker, job.deaths, job.fine_tuned_model)
            assert found == (known.state, known.token, known.worker, known.deaths, known.model)
            assert len((await self.records.events.list(job_id, limit=1000)).data) == known.num_events
            checkpoints = (await self.records.checkpoints.list(job_id)).data
            assert {checkpoint.step_number for checkpoint in checkpoints} == known.checkpoints


TestJobsAgainstModel = JobsAgainstModel.TestCase
TestJobsAgainstModel.settings = settings(
    max_examples=10, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
