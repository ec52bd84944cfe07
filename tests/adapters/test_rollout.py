"""The side of a sticky value, and the numbers of a tally."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.rollout import WHOLE, Rollout, RolloutPlan, RolloutState
from adapters.rollout_tally import RolloutTally

NOW = datetime(2026, 11, 29, tzinfo=UTC)
ROLLOUT = Rollout(
    id=1,
    adapter="sql",
    alias="stable",
    version=1,
    candidate=2,
    weight=500,
    plan=RolloutPlan(steps=[100, 5000, WHOLE]),
    state=RolloutState.ACTIVE,
    reason=None,
    generation=1,
    good_before=0,
    key_id=None,
    created_at=NOW,
    updated_at=NOW,
)


@given(st.text(), st.integers(0, WHOLE), st.integers(0, WHOLE))
def test_who_meets_the_candidate_meets_it_while_the_weight_does_not_shrink(value: str, one: int, other: int) -> None:
    low, high = sorted((one, other))
    assert replace(ROLLOUT, weight=low).takes(value) <= replace(ROLLOUT, weight=high).takes(value)
    assert not replace(ROLLOUT, weight=0).takes(value)
    assert replace(ROLLOUT, weight=WHOLE).takes(value)


def test_a_weight_is_the_share_of_values_and_each_rollout_draws_others() -> None:
    values = [f"user-{number}" for number in range(20_000)]
    first = {value for value in values if ROLLOUT.takes(value)}
    second = {value for value in values if replace(ROLLOUT, id=2).takes(value)}
    assert 800 < len(first) < 1200
    assert len(first & second) < 120


def test_the_next_step_is_the_first_above_the_weight() -> None:
    steps = [replace(ROLLOUT, weight=weight).next_step() for weight in (0, 100, 500, 5000, WHOLE)]
    assert steps == [100, 5000, 5000, WHOLE, None]


@given(st.lists(st.floats(1e-5, 1e4), min_size=1), st.floats(0.01, 0.99))
def test_a_quantile_is_near_the_value_that_it_stands_for(seconds: list[float], share: float) -> None:
    tally = RolloutTally()
    for each in seconds:
        tally.observe("latency", each)
    ordered = sorted(seconds)
    exact = next(value for rank, value in enumerate(ordered, 1) if rank >= share * len(ordered) - 1e-9)
    assert tally.quantile("latency", share) == pytest.approx(exact, rel=0.1)
    assert tally.observed("latency") == len(seconds)


@given(*[st.dictionaries(st.sampled_from(["requests", "errors", "latency:3"]), st.integers(0, 9))] * 2)
def test_tallies_of_two_servers_add_up(one: dict[str, float], other: dict[str, float]) -> None:
    total = RolloutTally(one) + RolloutTally(other)
    assert all(total[name] == one.get(name, 0) + other.get(name, 0) for name in {*one, *other})
