"""A rollout: a candidate version that answers a share of an alias's requests, until it is promoted or rolled back.

ACTIVE → PROMOTED      promote: the alias points to the candidate, by this rollout or by any other move
ACTIVE → ROLLED_BACK   roll_back: by a caller, or because a guard was broken
ACTIVE → ENDED         end: deleted or replaced; the alias moved elsewhere; alias or candidate deleted
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from typing import Any, Final

from adapters.state_machine import StateMachine

WHOLE: Final = 10_000
"""Weights and shares count in this many parts: 1 % is 100."""


class RolloutState(StrEnum):
    """The state of a rollout."""

    ACTIVE = "active"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    ENDED = "ended"


ROLLOUT_STATES: Final = StateMachine(
    RolloutState,
    {
        "promote": {RolloutState.ACTIVE: RolloutState.PROMOTED},
        "roll_back": {RolloutState.ACTIVE: RolloutState.ROLLED_BACK},
        "end": {RolloutState.ACTIVE: RolloutState.ENDED},
    },
)


class RolloutSide(StrEnum):
    """Whose answer a request got, or for ``shadow``: the candidate's answer that no caller got."""

    CURRENT = "current"
    CANDIDATE = "candidate"
    SHADOW = "shadow"


class Sticky(StrEnum):
    """The value of a request that decides on its side."""

    NONE = "none"
    """Each request is drawn."""
    KEY = "key"
    """The id of the API key, or of the subject of a bearer token."""
    USER = "user"
    """The request's ``safety_identifier`` or ``user``."""
    HEADER = "header"


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutPlan:
    """What a rollout was asked to do, but for candidate and weight."""

    sticky: Sticky = Sticky.NONE
    header: str | None = None
    """The header in lower case, for ``Sticky.HEADER``."""
    shadow: int = 0
    """Share of the requests of the current side that the candidate answers too, of ``WHOLE``."""
    guards: Sequence[Mapping[str, Any]] = ()
    """JSON of ``server.rollouts.guards``."""
    steps: Sequence[int] = ()
    """Rising weights, taken one after the other."""
    step_requests: int = 0
    """Good requests that the candidate answers before the next step."""
    is_forced: bool = False
    """Whether the alias's gate was overridden for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """A rollout of ``candidate`` behind ``alias``, which points to ``version``."""

    id: int
    """Unique for ever."""
    adapter: str
    alias: str
    version: int
    candidate: int
    weight: int
    """Share of the requests that the candidate answers, of ``WHOLE``."""
    plan: RolloutPlan
    state: RolloutState
    reason: Mapping[str, Any] | None
    """Why it is no longer active: ``code``, ``message`` and the numbers behind them."""
    generation: int
    """Grows by one with each change, for compare-and-set."""
    good_before: int
    """Good requests that the candidate had answered when the present weight was set."""
    key_id: str | None
    """The key in whose name shadow requests and graders' requests are sent."""
    created_at: datetime
    updated_at: datetime

    @property
    def name(self) -> str:
        return f"rollout-{self.id}"

    @property
    def candidate_name(self) -> str:
        """The candidate's name in the engine and in responses: ``sql@4``."""
        return f"{self.adapter}@{self.candidate}"

    def takes(self, value: str) -> bool:
        """Whether the candidate answers requests with this sticky ``value``; it goes on to while the weight grows."""
        digest = sha256(f"{self.id}:{value}".encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(digest[:8]) % WHOLE < self.weight

    def next_step(self) -> int | None:
        """Return the weight of the next step; None: there is none."""
        return next((step for step in self.plan.steps if step > self.weight), None)
