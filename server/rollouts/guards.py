"""The guards of a rollout: limits of the candidate against the current version. One that is broken rolls it back."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from hashlib import sha256
from math import exp, hypot, log, sqrt
from statistics import NormalDist
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from adapters.rollout import WHOLE, RolloutSide
from adapters.rollout_tally import RolloutTally
from trainer.evals.comparison import Rate, rate

Sides = Mapping[RolloutSide, RolloutTally]
NOTHING: Final = RolloutTally()
LEVEL: Final = 0.99
"""Of the intervals: guards look at the counts each second, and must not find by chance what they look for so often."""
_Z: Final = NormalDist().inv_cdf((1 + LEVEL) / 2)


@dataclass(frozen=True, slots=True)
class Worsening:
    """How much worse the candidate is, in the unit of the guard's limit."""

    estimate: float
    at_least: float
    """The lower end of the interval of ``LEVEL``."""


@dataclass(frozen=True, slots=True)
class Breach:
    """A broken guard with its numbers."""

    guard: str
    side: RolloutSide
    """Whose numbers broke it: the candidate's in live traffic, or in shadow."""
    current: float
    candidate: float
    limit: float
    at_least: float
    """The worsening that is beyond doubt, which is above ``limit``."""
    current_requests: int
    candidate_requests: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"{self.guard} is {self.candidate:.4g} over {self.candidate_requests} requests ({self.side}) and "
            f"{self.current:.4g} over {self.current_requests} of the current version; the limit is {self.limit:.4g}, "
            f"exceeded with {LEVEL:.0%} confidence ({self.at_least:.4g} at least)"
        )


class Guard(BaseModel, ABC):
    """A limit, checked once both sides have ``min_requests``.

    It is broken once the whole interval of the worsening lies above the limit, so that chance alone breaks none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    type: str
    min_requests: int = Field(50, ge=1, description="Requests of each side before the guard decides.")

    @property
    def sides(self) -> tuple[RolloutSide, ...]:
        """The sides that are compared with the current one."""
        return (RolloutSide.CANDIDATE, RolloutSide.SHADOW)

    @property
    @abstractmethod
    def limit(self) -> float:
        """The largest worsening that is allowed."""

    @abstractmethod
    def requests(self, tally: RolloutTally) -> int:
        """Return the number of requests of a side that the guard can judge."""

    @abstractmethod
    def value(self, tally: RolloutTally) -> float:
        """Return the number of a side that is compared; it has one request that the guard can judge, or more."""

    @abstractmethod
    def worsening(self, current: RolloutTally, candidate: RolloutTally) -> Worsening:
        """Return the worsening of the candidate, from sides that have requests."""

    def holds(self, sides: Sides) -> bool:
        """Whether the live traffic of both sides suffices, and the candidate's estimate is within the limit."""
        current, candidate = (sides.get(side, NOTHING) for side in (RolloutSide.CURRENT, RolloutSide.CANDIDATE))
        if not self._has_enough(current) or not self._has_enough(candidate):
            return False
        return self.worsening(current, candidate).estimate <= self.limit

    def breach(self, sides: Sides) -> Breach | None:
        """Return the breach, with the candidate's side; None: the guard is not broken, or has too few requests."""
        current = sides.get(RolloutSide.CURRENT, NOTHING)
        if not self._has_enough(current):
            return None
        for side in self.sides:
            tally = sides.get(side, NOTHING)
            if self._has_enough(tally) and (at_least := self.worsening(current, tally).at_least) > self.limit:
                return Breach(
                    self.type,
                    side,
                    current=round(self.value(current), 6),
                    candidate=round(self.value(tally), 6),
                    limit=round(self.limit, 6),
                    at_least=round(at_least, 6),
                    current_requests=self.requests(current),
                    candidate_requests=self.requests(tally),
                )
        return None

    def _has_enough(self, tally: RolloutTally) -> bool:
        return self.requests(tally) >= self.min_requests


class ErrorRateGuard(Guard):
    """Limits the share of requests that fail."""

    type: Literal["error_rate"]
    max_increase: float = Field(0.05, ge=0, le=1, description="Above the current version's rate, at most.")

    @property
    def limit(self) -> float:
        return self.max_increase

    def requests(self, tally: RolloutTally) -> int:
        return tally.requests

    def value(self, tally: RolloutTally) -> float:
        return self._rate(tally).value

    def worsening(self, current: RolloutTally, candidate: RolloutTally) -> Worsening:
        """The interval of a difference of rates is Newcombe's (1998), from Wilson's of each."""
        before, after = self._rate(current), self._rate(candidate)
        increase = after.value - before.value
        return Worsening(
            increase, increase - hypot(after.value - after.interval.low, before.interval.high - before.value)
        )

    def _rate(self, tally: RolloutTally) -> Rate:
        return rate(int(tally["errors"]), tally.requests, level=LEVEL)


class LatencyGuard(Guard):
    """Limits a quantile of the time to the first token, or of the whole answer. Answers in shadow wait: no guard."""

    type: Literal["time_to_first_token", "latency"]
    max_ratio: float = Field(1.5, ge=1, description="Times the current version's, at most.")
    quantile: float = Field(0.5, gt=0, lt=1)

    @property
    def sides(self) -> tuple[RolloutSide, ...]:
        return (RolloutSide.CANDIDATE,)

    @property
    def limit(self) -> float:
        return self.max_ratio

    def requests(self, tally: RolloutTally) -> int:
        return tally.observed(self.type)

    def value(self, tally: RolloutTally) -> float:
        return self._seconds(tally, self.quantile)

    def worsening(self, current: RolloutTally, candidate: RolloutTally) -> Worsening:
        """The ends of a quantile's interval are quantiles as well; those of the ratio combine them as logarithms."""
        ratio = self.value(candidate) / self.value(current)
        low, high = self.quantile - self._margin(candidate), self.quantile + self._margin(current)
        if low <= 0 or high >= 1:  # too few requests for an interval
            return Worsening(ratio, 0.0)
        below = log(self.value(candidate) / self._seconds(candidate, low))
        above = log(self._seconds(current, high) / self.value(current))
        return Worsening(ratio, ratio * exp(-hypot(below, above)))

    def _margin(self, tally: RolloutTally) -> float:
        """Return the half of the interval of the share of values below the quantile."""
        return _Z * sqrt(self.quantile * (1 - self.quantile) / self.requests(tally))

    def _seconds(self, tally: RolloutTally, share: float) -> float:
        seconds = tally.quantile(self.type, share)
        assert seconds is not None, "the side has requests"
        return seconds


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

    @property
    def limit(self) -> float:
        return self.max_decrease

    def requests(self, tally: RolloutTally) -> int:
        return tally.scored(self.key)

    def value(self, tally: RolloutTally) -> float:
        mean = tally.mean_score(self.key)
        assert mean is not None, "the side has scores"
        return mean

    def worsening(self, current: RolloutTally, candidate: RolloutTally) -> Worsening:
        """The spread is that of both sides' scores together: five equal scores do not make a mean certain."""
        decrease = self.value(current) - self.value(candidate)
        spread = (current + candidate).score_deviation(self.key)
        error = spread * sqrt(1 / self.requests(current) + 1 / self.requests(candidate))
        return Worsening(decrease, decrease - _Z * error)


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
