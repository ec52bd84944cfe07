"""Runs of evals as work of the deferred runner."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from server.access.caller import ANONYMOUS, Caller
from server.batches.line_client import LineClient
from server.evals.run_attempt import EvalRunAttempt
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
        models = GraderClient(self.state, self._caller(), post)
        await EvalRunAttempt(self.state.records.eval_queue, self.claim, client, models).work()

    async def release(self) -> None:
        await self.state.records.eval_queue.release(self.claim)

    def _caller(self) -> Caller:
        """Return the holder of the run's key; one without scopes if it was revoked, whose requests are denied."""
        if self.state.keys.is_open:
            return ANONYMOUS
        key = None if self.key_id is None else self.state.keys.get(self.key_id)
        return Caller(self.key_id, self.claim.run.project, frozenset()) if key is None else key.caller


@dataclass(frozen=True, slots=True)
class EvalWorkQueue:
    """The unfinished runs of evals."""

    state: AppState

    async def take(self, worker: str, lease_s: float) -> EvalWork | None:
        claim = await self.state.records.eval_queue.take(worker, lease_s)
        return None if claim is None else EvalWork(self.state, claim)
