"""Runs of evals as work of the deferred runner."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from server.batches.line_client import LineClient
from server.evals.run_attempt import EvalRunAttempt
from server.gateway.authenticate import holder
from server.operations.grader_client import GraderClient
from server.state import AppState
from trainer.evals.run_queue import EvalRunClaim


@dataclass(frozen=True, slots=True)
class EvalWork:
    """The run of ``claim``; implements ``server.batches.deferred_runner.DeferredWork``."""

    state: AppState
    claim: EvalRunClaim

    @property
    def id(self) -> str:
        return self.claim.run.id

    @property
    def key_id(self) -> str | None:
        return self.claim.run.key_id

    async def work(self, client: LineClient) -> None:
        async def post(path: str, body: Mapping[str, Any]) -> httpx.Response:
            return await client.send(path, str(body["model"]), body)

        await self.state.registry.try_refresh()  # its models may have been published by another server
        caller = holder(self.state.keys, self.key_id, self.claim.run.project)
        models = GraderClient(self.state, caller, post, is_deferred=True)
        await EvalRunAttempt(self.state.records.eval_queue, self.claim, client, models).work()

    async def release(self) -> None:
        await self.state.records.eval_queue.release(self.claim)


@dataclass(frozen=True, slots=True)
class EvalWorkQueue:
    """The unfinished runs of evals."""

    state: AppState

    async def take(self, worker: str, lease_s: float) -> EvalWork | None:
        claim = await self.state.records.eval_queue.take(worker, lease_s)
        return None if claim is None else EvalWork(self.state, claim)
