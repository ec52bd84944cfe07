"""The requests behind aliases with a rollout: which side answers each one, and what is counted of it in memory.

Nothing here waits: answers to be graded or compared are put into bounded queues, and dropped where one is full.
"""

from __future__ import annotations

import random
from asyncio import Queue, QueueFull
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from adapters.rollout import WHOLE, Rollout, RolloutSide
from adapters.rollout_tally import RolloutTally
from server.engine.protocol import Generation
from server.rollouts.guards import sampled_share

WAITING: Final = 256
"""Answers that wait to be graded or compared, in each queue."""
MAX_ANSWER_BYTES: Final = 256 << 10
"""A longer answer is neither graded nor compared."""
MAX_REQUEST_BYTES: Final = 1 << 20
"""A longer request is not sent in shadow: to read its JSON once more would hold up others."""
MAX_WAITING_BYTES: Final = 32 << 20
"""Requests and answers together that wait in both queues."""
SHADOWED_PATHS: Final = frozenset({"/v1/chat/completions", "/v1/completions"})
"""Paths whose answers are graded, compared and asked for in shadow."""


@dataclass(slots=True, eq=False)
class Trial:
    """The part of one request in a rollout."""

    rollout: Rollout
    side: RolloutSide
    is_shadowed: bool = False
    is_graded: bool = False
    answer: bytearray | None = None
    """The body of the response so far, where it is to be compared or graded; None: it is not, or is too long."""
    has_failed: bool = False
    """Whether a generation has failed; not one that its caller gave up."""
    first_token_s: float | None = None
    tokens: int = 0

    @property
    def version(self) -> int:
        """The number of the version that answers."""
        return self.rollout.candidate if self.side is RolloutSide.CANDIDATE else self.rollout.version

    def add(self, generation: Generation, *, waited_s: float) -> None:
        """Add a generation that has ended. ``waited_s``: seconds before the engine's own clock started."""
        self.tokens += generation.generated_tokens
        if generation.first_token_s is not None:
            self.first_token_s = waited_s + generation.first_token_s

    def keep(self, body: bytes) -> None:
        """Keep a part of the response's body."""
        if self.answer is not None:
            self.answer += body
            if len(self.answer) > MAX_ANSWER_BYTES:
                self.answer = None


@dataclass(frozen=True, slots=True)
class AnsweredRequest:
    """A live request with its answer, to be graded or compared."""

    trial: Trial
    path: str
    content: bytes
    """The request's body."""
    answer: bytes

    @property
    def size(self) -> int:
        return len(self.content) + len(self.answer)


def _queue() -> Queue[AnsweredRequest]:
    return Queue(WAITING)


@dataclass(slots=True, eq=False)
class RolloutTraffic:
    """What the rollouts of a server see of its traffic. Used in one event loop."""

    ready: set[int] = field(default_factory=set)
    """Ids of the rollouts whose candidates this server has made resident; others answer nothing yet."""
    draw: Callable[[], float] = random.random
    """Returns a number from 0 to 1."""
    tallies: dict[tuple[int, RolloutSide], RolloutTally] = field(default_factory=lambda: defaultdict(RolloutTally))
    """What was counted since it was written to the database."""
    to_grade: Queue[AnsweredRequest] = field(default_factory=_queue)
    to_shadow: Queue[AnsweredRequest] = field(default_factory=_queue)
    waiting_bytes: int = 0

    def begin(self, rollout: Rollout, sticky: str | None, path: str) -> Trial:
        """Return the trial of a request with that sticky value; None: it is drawn."""
        takes = rollout.takes(sticky) if sticky is not None else self.draw() * WHOLE < rollout.weight
        side = RolloutSide.CANDIDATE if takes and rollout.id in self.ready else RolloutSide.CURRENT
        trial = Trial(rollout, side)
        if path in SHADOWED_PATHS:
            plan = rollout.plan
            if side is RolloutSide.CURRENT and plan.shadow and rollout.id in self.ready:
                trial.is_shadowed = self.draw() * WHOLE < plan.shadow
            if share := sampled_share(plan.guards):
                trial.is_graded = self.draw() * WHOLE < share
            if trial.is_shadowed or trial.is_graded:
                trial.answer = bytearray()
        return trial

    def ended(self, trial: Trial, *, path: str, content: bytes, took_s: float, is_deferred: bool) -> None:
        """Count a request that was answered, or has failed. Lines of batches wait for others: their time says nothing.

        ``took_s``: from its arrival to the end of its answer.
        """
        tally = self.tallies[trial.rollout.id, trial.side]
        tally.count("requests")
        if trial.has_failed:
            tally.count("errors")
            return
        tally.count("tokens", trial.tokens)
        if not is_deferred:
            tally.observe("latency", took_s)
            if trial.first_token_s is not None:
                tally.observe("time_to_first_token", trial.first_token_s)
        if trial.answer is not None:
            answered = AnsweredRequest(trial, path, content, bytes(trial.answer))
            trial.answer = None
            if trial.is_graded:
                self._put(self.to_grade, answered)
            if trial.is_shadowed and len(content) <= MAX_REQUEST_BYTES:
                self._put(self.to_shadow, answered)

    def _put(self, queue: Queue[AnsweredRequest], answered: AnsweredRequest) -> None:
        try:
            if self.waiting_bytes + answered.size > MAX_WAITING_BYTES:
                raise QueueFull
            queue.put_nowait(answered)
            self.waiting_bytes += answered.size
        except QueueFull:
            self.drop(answered, is_shadow=queue is self.to_shadow)

    async def take(self, queue: Queue[AnsweredRequest]) -> AnsweredRequest:
        """Wait for the next answer of ``queue``."""
        answered = await queue.get()
        self.waiting_bytes -= answered.size
        return answered

    def drop(self, answered: AnsweredRequest, *, is_shadow: bool) -> None:
        """Count an answer that is not compared or graded."""
        side = RolloutSide.SHADOW if is_shadow else answered.trial.side
        self.tallies[answered.trial.rollout.id, side].count("dropped")
