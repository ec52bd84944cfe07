"""Intervals of ratios: they hold the truth, and shrink with what is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.interval import Interval, mean, quantile, ratio

REPEATS = st.lists(st.lists(st.floats(1, 1000), min_size=3, max_size=20), min_size=2, max_size=5)


def drawn(center: float, repeats: int, size: int, seed: int) -> list[list[float]]:
    random = np.random.default_rng(seed)
    return [[float(value) for value in random.normal(center, center / 10, size)] for _ in range(repeats)]


@settings(max_examples=5, deadline=None)
@given(REPEATS)
def test_a_server_beside_itself_is_as_fast_as_itself(repeats: list[list[float]]) -> None:
    found = ratio(repeats, repeats, mean)
    assert found.value == pytest.approx(1)
    assert found.low <= 1.0001
    assert found.high >= 0.9999


@settings(max_examples=5, deadline=None)
@given(REPEATS, st.floats(0.1, 10))
def test_a_ratio_does_not_depend_on_the_unit(repeats: list[list[float]], unit: float) -> None:
    scaled = [[value * unit for value in repeat] for repeat in repeats]
    assert ratio(scaled, repeats, quantile(0.5)).value == pytest.approx(unit)


def test_most_intervals_hold_the_true_ratio() -> None:
    found = [ratio(drawn(80, 3, 20, seed), drawn(100, 3, 20, 1000 + seed), mean) for seed in range(20)]
    assert sum(at.low <= 0.8 <= at.high for at in found) >= 15


def test_more_observations_make_the_interval_narrower() -> None:
    few, many = (ratio(drawn(100, 4, size, 1), drawn(100, 4, size, 2), mean) for size in (10, 1000))
    assert many.high - many.low < few.high - few.low


def test_what_drifts_on_the_machine_cancels_out() -> None:
    ours, theirs = [[90.0], [45.0], [22.5]], [[100.0], [50.0], [25.0]]
    assert ratio(ours, theirs, mean) == pytest.approx((0.9, 0.9, 0.9))


def test_an_interval_is_three_numbers_in_a_line_of_results() -> None:
    assert Interval(1, 0.98765, 1.2).row() == [1, 0.9877, 1.2]
    assert str(Interval(1, 0.98765, 1.2)) == "1.00 [0.99, 1.20]"
