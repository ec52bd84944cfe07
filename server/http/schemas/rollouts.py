"""Rollouts in requests and responses. Weights and shares are in percent, with two decimals at most."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from adapters.rollout import WHOLE, Rollout, RolloutPlan, RolloutSide, RolloutState, Sticky
from adapters.rollout_tally import RolloutTally
from server.http.schemas.base import Body, ResponseObject, UnixTime
from server.rollouts.guards import AnyGuard, Sides, read_guards, score_guards

_PART: Final = WHOLE / 100
_HEADER: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_SECRET_HEADERS: Final = frozenset({"authorization", "x-api-key", "cookie"})


def _two_decimals(percent: float) -> float:
    if abs(percent * _PART - round(percent * _PART)) > 1e-6:
        raise PydanticCustomError("percent", "Input should have two decimals at most")
    return percent


Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False), AfterValidator(_two_decimals)]


class RolloutBody(Body):
    """Body that begins a rollout, or changes the active one."""

    candidate: int = Field(ge=1, description="The version that is to answer a share of the alias's requests.")
    weight: Percent | None = Field(None, description="Share that the candidate answers; default: the first step, or 0.")
    sticky: Sticky = Field(
        Sticky.NONE,
        description="What keeps a caller on one side: its API `key`, the request's `user`, a `header`, `none`.",
    )
    header: str | None = Field(None, description="For `sticky: header`: its name.")
    shadow: Percent = Field(
        0, description="Share of the current version's requests that are sent to the candidate too."
    )
    guards: list[AnyGuard] = Field(default_factory=list, max_length=16)
    steps: list[Percent] = Field(
        default_factory=list, max_length=32, description="Rising weights; after 100, promotion."
    )
    step_requests: int = Field(100, ge=1, description="Good answers of the candidate before the next step.")
    force: bool = Field(False, description="Also without the verdict that the alias demands; recorded.")
    generation: int | None = Field(None, description="The generation that the active rollout must have now.")

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if (self.sticky is Sticky.HEADER) != (self.header is not None):
            raise PydanticCustomError("header", "Input should have `header` with `sticky: header`, and only then")
        if self.header is not None and (not _HEADER.fullmatch(self.header) or self.header.lower() in _SECRET_HEADERS):
            raise PydanticCustomError("header", "Input should name a header that carries no secret")
        if any(low >= high for low, high in zip([0.0, *self.steps], self.steps, strict=False)):
            raise PydanticCustomError("steps", "Input should have steps that rise, above 0")
        if self.weight is None and not self.steps and not self.shadow:
            raise PydanticCustomError("weight", "Input should have a weight, steps or a shadow")
        return self

    @property
    def parts(self) -> int:
        """The weight of ``WHOLE``."""
        first = self.steps[0] if self.steps else 0
        return _parts(first if self.weight is None else self.weight)

    def plan(self) -> RolloutPlan:
        return RolloutPlan(
            sticky=self.sticky,
            header=None if self.header is None else self.header.lower(),
            shadow=_parts(self.shadow),
            guards=[guard.model_dump(mode="json") for guard in self.guards],
            steps=[_parts(step) for step in self.steps],
            step_requests=self.step_requests,
            is_forced=self.force,
        )


class RollbackRolloutBody(Body):
    """Body of a rollback of a rollout."""

    generation: int | None = Field(None, description="The generation that the rollout must have now.")


class PromoteRolloutBody(RollbackRolloutBody):
    """Body of a promotion."""

    force: bool = Field(False, description="Also without the verdict that the alias demands; recorded.")


class SideObject(ResponseObject):
    """What was counted on one side. Times in seconds are medians; ``agreement`` is that of shadow answers."""

    requests: int
    errors: int
    error_rate: float | None
    time_to_first_token: float | None
    latency: float | None
    tokens: float | None = Field(description="Mean length of an answer.")
    scores: dict[str, float | None] = Field(description="Mean score of each grader, by its name or type.")
    compared: int
    equal: float | None
    agreement: float | None = Field(description="Tokens in the same order, as a share of all.")
    dropped: int = Field(description="Answers that were neither graded nor compared, because too many waited.")

    @classmethod
    def of(cls, tally: RolloutTally, plan: RolloutPlan) -> Self:
        """Return the counts of ``tally``."""
        return cls(
            requests=tally.requests,
            errors=int(tally["errors"]),
            error_rate=tally.error_rate,
            time_to_first_token=tally.quantile("time_to_first_token", 0.5),
            latency=tally.quantile("latency", 0.5),
            tokens=None if not tally.good else tally["tokens"] / tally.good,
            scores={
                str(guard.grader.get("name") or guard.grader.get("type")): tally.mean_score(guard.key)
                for guard in score_guards(plan.guards)
            },
            compared=int(tally["compared"]),
            equal=tally.mean("equal", "compared"),
            agreement=tally.mean("agreement", "compared"),
            dropped=int(tally["dropped"]),
        )


class RolloutObject(ResponseObject):
    """A rollout with what was counted of it so far, on all servers."""

    object: Literal["adapter.rollout"] = "adapter.rollout"
    id: str
    adapter: str
    alias: str
    version: int = Field(description="What the alias points to, or pointed to when the rollout ended.")
    candidate: int
    weight: float
    sticky: Sticky
    header: str | None
    shadow: float
    guards: list[AnyGuard]
    steps: list[float]
    step_requests: int
    state: RolloutState
    reason: dict[str, Any] | None
    is_forced: bool
    generation: int
    created_at: UnixTime
    updated_at: UnixTime
    sides: dict[RolloutSide, SideObject]

    @classmethod
    def of(cls, rollout: Rollout, sides: Sides) -> Self:
        plan = rollout.plan
        own = ("adapter", "alias", "version", "candidate", "state", "generation", "created_at", "updated_at")
        return cls(
            id=rollout.name,
            weight=rollout.weight / _PART,
            sticky=plan.sticky,
            header=plan.header,
            shadow=plan.shadow / _PART,
            guards=list(read_guards(plan.guards)),
            steps=[step / _PART for step in plan.steps],
            step_requests=plan.step_requests,
            reason=None if rollout.reason is None else dict(rollout.reason),
            is_forced=plan.is_forced,
            sides={side: SideObject.of(sides.get(side, RolloutTally()), plan) for side in RolloutSide},
            **{name: getattr(rollout, name) for name in own},
        )


def _parts(percent: float) -> int:
    return round(percent * _PART)
