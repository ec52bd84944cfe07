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


def beside(current: RolloutTally, candidate: RolloutTally) -> dict[RolloutSide, RolloutTally]:
    return {RolloutSide.CURRENT: current, RolloutSide.CANDIDATE: candidate}


ERRORS = {"type": "error_rate", "max_increase": 0.1}
LATENCY = {"type": "latency", "max_ratio": 1.5}
FIRST_TOKEN = {"type": "time_to_first_token", "max_ratio": 1.5}
SCORE = {"type": "score", "grader": GRADER, "max_decrease": 0.2}
KINDS = pytest.mark.parametrize(
    ("definition", "within", "above"),
    [
        (ERRORS, {"errors": 50}, {"errors": 200}),
        (LATENCY, {"seconds": 1.3}, {"seconds": 1.8}),
        (FIRST_TOKEN, {"seconds": 1.3}, {"seconds": 1.8}),
        (SCORE, {"score": 0.8}, {"score": 0.7}),
    ],
    ids=lambda value: value.get("type", ""),
)


@KINDS
def test_a_guard_holds_up_to_its_limit_and_breaks_above_it(
    definition: dict[str, Any], within: dict[str, Any], above: dict[str, Any]
) -> None:
    current, own = counted(500, score=0.95), guard(**definition)
    good, bad = (beside(current, counted(500, **{"score": 0.95, **fields})) for fields in (within, above))
    assert (own.breach(good), own.holds(good)) == (None, True)
    assert (own.breach(bad) is not None, own.holds(bad)) == (True, False)


@pytest.mark.parametrize("definition", [ERRORS, LATENCY, FIRST_TOKEN, SCORE], ids=lambda value: value["type"])
def test_one_failed_or_slow_or_bad_answer_of_five_breaks_nothing(definition: dict[str, Any]) -> None:
    one_of_five = counted(4, score=1.0) + counted(1, seconds=30.0, score=0.0)
    one_of_five.count("errors")
    for others in (5, 500):
        sides = beside(counted(others, score=1.0), one_of_five)
        assert guard(**definition, min_requests=5).breach(sides) is None


@pytest.mark.parametrize(
    ("definition", "current", "candidate"),
    [
        (ERRORS, counted(10), counted(10, 2)),
        (LATENCY, counted(6) + counted(4, seconds=4.0), counted(4) + counted(6, seconds=4.0)),
        (SCORE, counted(10, score=1.0), counted(7, score=1.0) + counted(3, score=0.0)),
    ],
    ids=("error_rate", "latency", "score"),
)
def test_what_may_be_chance_breaks_nothing_and_delays_the_next_step(
    definition: dict[str, Any], current: RolloutTally, candidate: RolloutTally
) -> None:
    """The estimate is above the limit, and not yet its whole interval."""
    own, sides = guard(**definition), beside(current, candidate)
    assert (own.breach(sides), own.holds(sides)) == (None, False)


@pytest.mark.parametrize(
    ("definition", "bad"),
    [(ERRORS, {"errors": 7}), (SCORE, {"score": 0.0}), (LATENCY, {"seconds": 60.0}), (FIRST_TOKEN, {"seconds": 60.0})],
    ids=lambda value: value.get("type", ""),
)
def test_a_candidate_that_always_fails_breaks_after_a_few_requests(
    definition: dict[str, Any], bad: dict[str, Any]
) -> None:
    sides = beside(counted(7, score=1.0), counted(7, **bad))
    assert guard(**definition, min_requests=5).breach(sides) is not None


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
    assert not guard(**definition).holds(sides)


def test_a_shadow_breaks_errors_and_scores_and_not_latency() -> None:
    sides = {RolloutSide.CURRENT: counted(20, score=1.0), RolloutSide.SHADOW: counted(30, 20, seconds=9.0, score=0.0)}
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
        "error_rate is 0.5 over 20 requests (candidate) and 0 over 20 of the current version; the limit is 0.1, "
        "exceeded with 99% confidence (0.1474 at least)"
    )
