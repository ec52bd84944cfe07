"""The guards of a rollout: limits of the candidate against the current version. One that is broken rolls it back."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from adapters.rollout import WHOLE, RolloutSide
from adapters.rollout_tally import RolloutTally

Sides = Mapping[RolloutSide, RolloutTally]
NOTHING: Final = RolloutTally()


@dataclass(frozen=True, slots=True)
class Breach:
    """A broken guard with its numbers."""

    guard: str
    side: RolloutSide
    """Whose numbers broke it: the candidate's in live traffic, or in shadow."""
    current: float
    candidate: float
    limit: float
    current_requests: int
    candidate_requests: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"{self.guard} is {self.candidate:.4g} over {self.candidate_requests} requests ({self.side}) and "
            f"{self.current:.4g} over {self.current_requests} of the current version; the limit is {self.limit:.4g}"
        )


class Guard(BaseModel, ABC):
    """A limit, checked once both sides have ``min_requests``."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    type: str
    min_requests: int = Field(50, ge=1, description="Requests of each side before the guard decides.")

    @property
    def sides(self) -> tuple[RolloutSide, ...]:
        """The sides that are compared with the current one."""
        return (RolloutSide.CANDIDATE, RolloutSide.SHADOW)

    @abstractmethod
    def requests(self, tally: RolloutTally) -> int:
        """Return the number of requests of a side that the guard can judge."""

    @abstractmethod
    def value(self, tally: RolloutTally) -> float | None:
        """Return the number that is compared; None: there is none yet."""

    @abstractmethod
    def limit(self, current: float) -> float:
        """Return the worst number that the candidate may have."""

    def is_worse(self, candidate: float, limit: float) -> bool:
        return candidate > limit

    def decides(self, sides: Sides) -> bool:
        """Whether the live traffic of both sides has the numbers that the guard needs."""
        return all(
            self.requests(sides.get(side, NOTHING)) >= self.min_requests
            for side in (RolloutSide.CURRENT, RolloutSide.CANDIDATE)
        )

    def breach(self, sides: Sides) -> Breach | None:
        """Return the breach, with the candidate's side; None: the guard holds, or has too few requests."""
        current = sides.get(RolloutSide.CURRENT, NOTHING)
        baseline = self.value(current)
        if baseline is None or self.requests(current) < self.min_requests:
            return None
        for side in self.sides:
            tally = sides.get(side, NOTHING)
            value, limit = self.value(tally), self.limit(baseline)
            if value is not None and self.requests(tally) >= self.min_requests and self.is_worse(value, limit):
                counted = (self.requests(current), self.requests(tally))
                return Breach(self.type, side, round(baseline, 6), round(value, 6), round(limit, 6), *counted)
        return None


class ErrorRateGuard(Guard):
    """Limits the share of requests that fail."""

    type: Literal["error_rate"]
    max_increase: float = Field(0.05, ge=0, le=1, description="Above the current version's rate, at most.")

    def requests(self, tally: RolloutTally) -> int:
        return tally.requests

    def value(self, tally: RolloutTally) -> float | None:
        return tally.error_rate

    def limit(self, current: float) -> float:
        return current + self.max_increase


class LatencyGuard(Guard):
    """Limits a quantile of the time to the first token, or of the whole answer. Answers in shadow wait: no guard."""

    type: Literal["time_to_first_token", "latency"]
    max_ratio: float = Field(1.5, ge=1, description="Times the current version's, at most.")
    quantile: float = Field(0.5, gt=0, lt=1)

    @property
    def sides(self) -> tuple[RolloutSide, ...]:
        return (RolloutSide.CANDIDATE,)

    def requests(self, tally: RolloutTally) -> int:
        return tally.observed(self.type)

    def value(self, tally: RolloutTally) -> float | None:
        return tally.quantile(self.type, self.quantile)

    def limit(self, current: float) -> float:
        return current * self.max_ratio


class ScoreGuard(Guard):
    """Limits how far the mean score of a grader may fall. The grader sees the answer alone: there is no item."""

    type: Literal["score"]
    grader: dict[str, Any] = Field(description="In OpenAI's form, without {{item.…}}.")
    max_decrease: float = Field(0.1, ge=0, description="Below the current version's mean, at most.")
    sample: float = Field(100, gt=0, le=100, description="Answers to grade, in percent.")

    @property
    def key(self) -> str:
        """Names the grader in tallies."""
        return sha256(json.dumps(self.grader, sort_keys=True).encode()).hexdigest()[:12]

    def requests(self, tally: RolloutTally) -> int:
        return tally.scored(self.key)

    def value(self, tally: RolloutTally) -> float | None:
        return tally.mean_score(self.key)

    def limit(self, current: float) -> float:
        return current - self.max_decrease

    def is_worse(self, candidate: float, limit: float) -> bool:
        return candidate < limit


AnyGuard = Annotated[ErrorRateGuard | LatencyGuard | ScoreGuard, Field(discriminator="type")]
_GUARDS: Final = TypeAdapter(list[AnyGuard])


@lru_cache(maxsize=256)
def _read(text: str) -> tuple[Guard, ...]:
    return tuple(_GUARDS.validate_json(text))


def read_guards(stored: Sequence[Mapping[str, Any]]) -> tuple[Guard, ...]:
    """Return the guards of a plan."""
    return _read(json.dumps(list(stored)))


def score_guards(stored: Sequence[Mapping[str, Any]]) -> Iterator[ScoreGuard]:
    return (guard for guard in read_guards(stored) if isinstance(guard, ScoreGuard))


def sampled_share(stored: Sequence[Mapping[str, Any]]) -> float:
    """Return the share of answers that a grader wants, of ``WHOLE``: the largest of all guards."""
    return max((each.get("sample", 0) for each in stored), default=0) * WHOLE / 100


def first_breach(guards: Sequence[Guard], sides: Sides) -> Breach | None:
    return next((breach for guard in guards if (breach := guard.breach(sides)) is not None), None)
