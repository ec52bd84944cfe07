"""The background loop of rollouts: loads candidates, sends shadow requests, grades answers, and acts on the counts."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from time import perf_counter
from typing import Any, Final

import structlog
from starlette.types import ASGIApp

from adapters.errors import NotFound, PatchbayError, StorageUnavailable, WrongBase
from adapters.registry.rollout_rows import reason
from adapters.registry.rollouts import Rollouts
from adapters.rollout import WHOLE, Rollout, RolloutSide
from adapters.rollout_tally import RolloutTally
from server.batches.line_client import connected
from server.errors import Unavailable
from server.gateway.authenticate import holder
from server.operations import rollouts as operations
from server.operations.grader_client import GraderClient, as_caller
from server.operations.residents import make_resident
from server.rollouts.answers import agreement, text_of
from server.rollouts.guards import Sides, first_breach, read_guards, sampled_share, score_guards
from server.rollouts.traffic import AnsweredRequest, RolloutTraffic
from server.state import AppState
from trainer.graders.grader import GradingError, Sample
from trainer.graders.parsing import parse

log = structlog.get_logger(__name__)

INTERVAL_S: Final = 1.0
"""Between two looks at the counts: what a server that is killed may lose of them."""
SHADOWS: Final = 2
"""Shadow requests at once."""

_FAILED: Final = frozenset(
    {HTTPStatus.FAILED_DEPENDENCY, HTTPStatus.INTERNAL_SERVER_ERROR, HTTPStatus.BAD_GATEWAY, HTTPStatus.GATEWAY_TIMEOUT}
)
_NO_SCORE: Final = frozenset(
    {GradingError.MODEL_PARSE, GradingError.MODEL_REFUSAL, GradingError.MODEL_SERVER, GradingError.OTHER}
)
"""Errors that are not the answer's: nothing is counted."""


@dataclass(slots=True, eq=False)
class RolloutRunner:
    """Works on the rollouts of ``state``.

    Args:
        app: returns the gateway's app for requests that act for the key with an id, behind other traffic.
    """

    state: AppState
    app: Callable[[str | None], ASGIApp]
    _loading: dict[int, asyncio.Task[None]] = field(default_factory=dict)
    _waiting_for_verdict: set[int] = field(default_factory=set)

    @property
    def _traffic(self) -> RolloutTraffic:
        return self.state.hooks.rollouts

    async def run(self) -> None:
        """Work until cancelled; what was counted is written at the end too."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._forever(self._traffic.to_grade, self._grade_live))
                for _ in range(SHADOWS):
                    group.create_task(self._forever(self._traffic.to_shadow, self._shadow))
                while True:
                    self._load_candidates(group)
                    await self._look()
                    await asyncio.sleep(INTERVAL_S)
        finally:
            await self._write()

    # -- the counts --------------------------------------------------------------------------------------------

    async def _look(self) -> None:
        """Write what was counted, then act on what all servers have counted."""
        active = dict(self.state.registry.catalog.rollouts())
        if not await self._write() or not active:
            return
        try:
            tallies = await Rollouts(self.state.registry).tallies(active)
        except StorageUnavailable:  # the next look tells
            return
        for rollout in active.values():
            await self._act(rollout, {side: tallies.get((rollout.id, side), RolloutTally()) for side in RolloutSide})

    async def _write(self) -> bool:
        """Write what was counted; return False while the database is away: the next look tries again."""
        counted, self._traffic.tallies = self._traffic.tallies, defaultdict(RolloutTally)
        try:
            if counted:
                await Rollouts(self.state.registry).add(counted)
        except StorageUnavailable as away:
            log.warning("the counts of rollouts cannot be written yet", reason=away.message)
            for key, tally in counted.items():
                self._traffic.tallies[key] += tally
            return False
        return True

    async def _act(self, rollout: Rollout, sides: Sides) -> None:
        guards = read_guards(rollout.plan.guards)
        if (breach := first_breach(guards, sides)) is not None:
            await operations.roll_back_by_itself(
                self.state, rollout, reason("guard_broken", str(breach), **breach.to_json())
            )
            return
        good = sides[RolloutSide.CANDIDATE].good
        is_due = rollout.plan.steps and good - rollout.good_before >= rollout.plan.step_requests
        if not is_due or not all(guard.holds(sides) for guard in guards):
            return
        try:
            await self._take_step(rollout, good)
        except PatchbayError as refused:
            if rollout.id not in self._waiting_for_verdict:
                log.warning("a rollout stays at its step", rollout=rollout.name, reason=refused.message)
                self._waiting_for_verdict.add(rollout.id)

    async def _take_step(self, rollout: Rollout, good: int) -> None:
        weight = rollout.next_step()
        if weight is not None:
            await Rollouts(self.state.registry).step(rollout, weight, good=good)
            why = reason("step", f"{good} good requests: {weight / 100:g} %", weight=weight / 100)
            await operations.record(self.state, rollout, "step", why)
        elif rollout.weight == WHOLE:
            await operations.promote(self.state, rollout.adapter, rollout.alias, generation=rollout.generation)
            await operations.record(self.state, rollout, "promote", reason("steps_done", f"{good} good requests"))

    # -- candidates --------------------------------------------------------------------------------------------

    def _load_candidates(self, group: asyncio.TaskGroup) -> None:
        """Load the candidates that this server has not loaded; a look at the counts does not wait for that."""
        active = self.state.registry.catalog.rollouts()
        self._traffic.ready &= active.keys()
        self._waiting_for_verdict &= active.keys()
        if not self.state.engine.is_ready:
            return
        for rollout in active.values():
            if rollout.id not in self._loading:
                self._loading[rollout.id] = task = group.create_task(self._load_candidate(rollout))
                task.add_done_callback(partial(self._loaded, rollout.id))

    def _loaded(self, rollout_id: int, _task: asyncio.Task[None]) -> None:
        del self._loading[rollout_id]

    async def _load_candidate(self, rollout: Rollout) -> None:
        try:
            candidate = self.state.registry.catalog.version(rollout.adapter, rollout.candidate)
            if candidate in self.state.quarantine:
                raise self.state.quarantine.refusal(candidate)
            if rollout.id not in self._traffic.ready:
                await make_resident(self.state, candidate)
                self._traffic.ready.add(rollout.id)
        except (NotFound, Unavailable, WrongBase):  # deleted a moment ago, tried again, or for another server to load
            return
        except PatchbayError as unusable:
            if unusable.is_passing:
                return
            why = reason("candidate_unusable", unusable.message)
            await operations.roll_back_by_itself(self.state, rollout, why)

    # -- answers -----------------------------------------------------------------------------------------------

    async def _forever(
        self, queue: asyncio.Queue[AnsweredRequest], work: Callable[[AnsweredRequest], Awaitable[None]]
    ) -> None:
        while True:
            answered = await self._traffic.take(queue)
            if answered.trial.rollout.id not in self.state.registry.catalog.rollouts():
                continue
            try:
                await work(answered)
            except Exception:  # one answer must not end the work on all others
                log.exception("an answer was not compared", rollout=answered.trial.rollout.name)

    async def _grade_live(self, answered: AnsweredRequest) -> None:
        trial = answered.trial
        share = sampled_share(trial.rollout.plan.guards)
        await self._grade(trial.rollout, trial.side, text_of(answered.answer), share)

    async def _grade(self, rollout: Rollout, side: RolloutSide, text: str | None, sampled: float = 0) -> None:
        """Score an answer with the rollout's graders. ``sampled``: the share of answers that come here; 0: take all."""
        if text is None:
            return
        adapter = self.state.registry.catalog.adapter(rollout.adapter)
        caller = holder(self.state.keys, rollout.key_id, adapter.project)
        models = GraderClient(self.state, caller, as_caller(self.app(rollout.key_id), {}), is_deferred=True)
        for guard in score_guards(rollout.plan.guards):
            if self._traffic.draw() * sampled >= guard.sample * WHOLE / 100:
                continue
            grade = await parse(guard.grader, "grader").grade(Sample(text), models)
            if not grade.errors.keys() & _NO_SCORE:
                self._traffic.tallies[rollout.id, side].score(guard.key, grade.reward)

    async def _shadow(self, answered: AnsweredRequest) -> None:
        """Send a request to the candidate as well, and compare the answer with the one that its caller got."""
        rollout, started = answered.trial.rollout, perf_counter()
        async with connected(self.app(rollout.key_id)) as http:
            response = await http.post(answered.path, json=_shadow_body(answered.content, rollout))
        if response.status_code not in {HTTPStatus.OK, *_FAILED}:  # no key any more, no capacity, no candidate
            self._traffic.drop(answered, is_shadow=True)
            return
        has_failed = response.status_code != HTTPStatus.OK
        self.state.hooks.meter.tried(
            rollout.adapter, RolloutSide.SHADOW, perf_counter() - started, has_failed=has_failed
        )
        tally = RolloutTally({"requests": 1, "errors": int(has_failed)})
        text, live = text_of(response.content), text_of(answered.answer)
        if not has_failed:
            tally.observe("latency", perf_counter() - started)
            tally.count("tokens", (response.json().get("usage") or {}).get("completion_tokens") or 0)
            if text is not None and live is not None:
                encode = self.state.engine.serving().engine.encode
                tally.count("compared")
                tally.count("equal", text == live)
                tally.count("agreement", agreement(text, live, encode))
        self._traffic.tallies[rollout.id, RolloutSide.SHADOW] += tally
        if not has_failed:
            await self._grade(rollout, RolloutSide.SHADOW, text)


def _shadow_body(content: bytes, rollout: Rollout) -> dict[str, Any]:
    """Return the body of a live request, for one answer of the candidate and without a stream."""
    body: dict[str, Any] = json.loads(content)
    for name in ("stream", "stream_options", "n"):
        body.pop(name, None)
    return {**body, "model": rollout.candidate_name}
