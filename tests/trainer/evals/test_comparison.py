"""Comparisons of scores: what they say of equal, better and few scores, and how often their intervals are right."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.evals.comparison import compare, mean_interval, rate

SCORES = st.floats(-1e6, 1e6, allow_nan=False)
PAIRS = st.lists(st.tuples(SCORES, SCORES), min_size=1, max_size=60)


@given(PAIRS)
@settings(max_examples=60, deadline=None)
def test_a_comparison_turned_around_has_the_opposite_difference_and_swaps_wins_and_losses(
    pairs: list[tuple[float, float]],
) -> None:
    ours, theirs = zip(*pairs, strict=True)
    one, other = compare(ours, theirs, draws=200), compare(theirs, ours, draws=200)
    assert one.difference == pytest.approx(-other.difference)
    assert (one.wins, one.ties, one.losses) == (other.losses, other.ties, other.wins)
    assert one.wins.count + one.ties.count + one.losses.count == one.items == len(pairs)


@given(PAIRS)
@settings(max_examples=60, deadline=None)
def test_the_difference_lies_in_its_interval_and_rates_in_theirs(pairs: list[tuple[float, float]]) -> None:
    ours, theirs = zip(*pairs, strict=True)
    found = compare(ours, theirs, draws=200)
    assert found.interval.low <= found.difference <= found.interval.high
    for each in (found.wins, found.ties, found.losses):
        assert 0 <= each.interval.low <= each.value <= each.interval.high <= 1


@given(PAIRS, st.floats(0.01, 100), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_an_interval_scales_with_the_scores_and_repeats_with_its_seed(
    pairs: list[tuple[float, float]], factor: float, seed: int
) -> None:
    differences = [one - other for one, other in pairs]
    if not any(differences):
        return
    interval = mean_interval(differences, draws=200, seed=seed)
    assert mean_interval(differences, draws=200, seed=seed) == interval
    scaled = mean_interval([each * factor for each in differences], draws=200, seed=seed)
    largest = max(map(abs, differences)) * factor
    assert scaled.low == pytest.approx(interval.low * factor, rel=1e-6, abs=1e-6 * largest)
    assert scaled.high == pytest.approx(interval.high * factor, rel=1e-6, abs=1e-6 * largest)


def test_a_clear_difference_is_found_and_none_is_not() -> None:
    better = compare([1.0] * 40 + [0.0] * 10, [0.0] * 40 + [0.0] * 10)
    assert (better.is_better, better.is_worse) == (True, False)
    assert better.difference == pytest.approx(0.8)
    same = compare([1.0, 0.0] * 25, [1.0, 0.0] * 25)
    assert (same.is_better, same.is_worse, same.difference, same.ties.count) == (False, False, 0.0, 50)


def test_equal_scores_of_few_items_leave_a_difference_possible() -> None:
    assert compare([1.0] * 10, [1.0] * 10).interval.high > 0.05
    assert compare([1.0] * 1000, [1.0] * 1000).interval.high < 0.01


@pytest.mark.parametrize(("ours", "theirs"), [([], []), ([1.0], []), ([math.nan], [0.0]), ([math.inf], [0.0])])
def test_scores_of_other_items_or_of_none_are_refused(ours: list[float], theirs: list[float]) -> None:
    with pytest.raises(ValueError, match=r"score"):
        compare(ours, theirs)


def test_wilsons_interval_is_that_of_the_textbook() -> None:
    found = rate(8, 10).interval
    assert (found.low, found.high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))


def simulated(kind: str, random: np.random.Generator, items: int) -> tuple[list[float], float]:
    """Return differences of scores on ``items`` items, and the true mean difference."""
    match kind:
        case "binary":  # one model is right on 70 %, the other on 60 %, independently
            ours, theirs = random.random(items) < 0.7, random.random(items) < 0.6
            return (ours.astype(float) - theirs).tolist(), 0.1
        case "rare":  # the models differ on 1 % of the items, always in the same direction
            return (random.random(items) < 0.01).astype(float).tolist(), 0.01
        case "one-sided":  # one is right on all, the other on 90 %
            return (random.random(items) < 0.1).astype(float).tolist(), 0.1
        case "normal":
            return random.normal(0.05, 0.2, items).tolist(), 0.05
        case "skewed":
            return (random.exponential(0.2, items) - 0.1).tolist(), 0.1
        case _:  # most are equal, some differ by little or much
            return np.where(random.random(items) < 0.2, random.normal(0.3, 0.4, items), 0.0).tolist(), 0.06


@pytest.mark.parametrize("kind", ["binary", "rare", "one-sided", "normal", "skewed", "mixed"])
@pytest.mark.parametrize("items", [20, 100])
def test_intervals_of_95_percent_cover_the_truth_in_90_percent_of_simulated_cases(kind: str, items: int) -> None:
    random, cases, covered = np.random.default_rng(7), 400, 0
    for seed in range(cases):
        differences, truth = simulated(kind, random, items)
        covered += truth in mean_interval(differences, draws=600, seed=seed)
    assert covered / cases >= 0.9
