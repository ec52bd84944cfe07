"""Guards: broken above their limit once both sides have enough requests, and never before."""

from __future__ import annotations

from typing import Any

import pytest

from adapters.rollout import RolloutSide
from adapters.rollout_tally import RolloutTally
from server.rollouts.guards import Guard, first_breach, read_guards

GRADER = {"type": "string_check", "input": "{{sample.output_text}}", "reference": "a", "operation": "eq"}


def guard(**definition: Any) -> Guard:
    return read_guards([{"min_requests": 10, **definition}])[0]


def counted(requests: int, errors: int = 0, seconds: float = 1.0, score: float | None = None) -> RolloutTally:
    tally = RolloutTally({"requests": requests, "errors": errors})
    for _ in range(requests - errors):
        tally.observe("latency", seconds)
        tally.observe("time_to_first_token", seconds / 2)
        if score is not None:
            tally.score(guard(type="score", grader=GRADER).key, score)  # type: ignore[attr-defined]
    return tally


ERRORS = {"type": "error_rate", "max_increase": 0.1}
LATENCY = {"type": "latency", "max_ratio": 1.5}
FIRST_TOKEN = {"type": "time_to_first_token", "max_ratio": 1.5}
SCORE = {"type": "score", "grader": GRADER, "max_decrease": 0.2}


@pytest.mark.parametrize(
    ("definition", "good", "bad"),
    [
        (ERRORS, counted(20, 2), counted(20, 3)),
        (LATENCY, counted(20, seconds=1.3), counted(20, seconds=1.8)),
        (FIRST_TOKEN, counted(20, seconds=1.3), counted(20, seconds=1.8)),
        (SCORE, counted(20, score=0.8), counted(20, score=0.7)),
    ],
    ids=lambda value: value["type"] if isinstance(value, dict) else "",
)
def test_a_guard_holds_up_to_its_limit_and_breaks_above_it(
    definition: dict[str, Any], good: RolloutTally, bad: RolloutTally
) -> None:
    current = counted(20, score=0.95)
    for candidate, is_broken in ((good, False), (bad, True)):
        sides = {RolloutSide.CURRENT: current, RolloutSide.CANDIDATE: candidate}
        assert (guard(**definition).breach(sides) is not None) == is_broken
        assert guard(**definition).decides(sides)


@pytest.mark.parametrize("definition", [ERRORS, LATENCY, SCORE], ids=lambda value: value["type"])
@pytest.mark.parametrize(("current", "candidate"), [(9, 20), (20, 9), (0, 20), (20, 0)])
def test_a_guard_decides_nothing_before_both_sides_have_enough(
    definition: dict[str, Any], current: int, candidate: int
) -> None:
    sides = {
        RolloutSide.CURRENT: counted(current, score=1.0),
        RolloutSide.CANDIDATE: counted(candidate, candidate // 2, seconds=9.0, score=0.0),
    }
    assert guard(**definition).breach(sides) is None
    assert not guard(**definition).decides(sides)


def test_a_shadow_breaks_errors_and_scores_and_not_latency() -> None:
    sides = {RolloutSide.CURRENT: counted(20, score=1.0), RolloutSide.SHADOW: counted(30, 10, seconds=9.0, score=0.0)}
    broken = {kind["type"]: guard(**kind).breach(sides) for kind in (ERRORS, SCORE, LATENCY)}
    assert [kind for kind, breach in broken.items() if breach is None] == ["latency"]
    breach = broken["error_rate"]
    assert breach is not None
    assert (breach.side, breach.current_requests, breach.candidate_requests) == (RolloutSide.SHADOW, 20, 30)


def test_the_first_broken_guard_is_the_reason_in_words_and_numbers() -> None:
    sides = {RolloutSide.CURRENT: counted(20), RolloutSide.CANDIDATE: counted(20, 10)}
    breach = first_breach([guard(**LATENCY), guard(**ERRORS)], sides)
    assert breach is not None
    assert breach.to_json()["guard"] == "error_rate"
    assert str(breach) == (
        "error_rate is 0.5 over 20 requests (candidate) and 0 over 20 of the current version; the limit is 0.1"
    )
