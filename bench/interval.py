"""How sure a ratio is: bootstrap over the repeats, and inside each over what was observed in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

DRAWS: Final = 1000
OUTSIDE: Final = 2.5
"""Percent of the draws below the interval, and as many above it."""

Values = NDArray[np.float64]
Statistic = Callable[[Values], float]


class Interval(NamedTuple):
    """A number and where it lies with 95 % confidence."""

    value: float
    low: float
    high: float

    def row(self) -> list[float]:
        """Return it for a line of results: value, low, high."""
        return [round(number, 4) for number in self]

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def quantile(of: float) -> Statistic:
    """Return the statistic that is the quantile ``of`` (0 to 1)."""
    return lambda values: float(np.quantile(values, of))


def mean(values: Values) -> float:
    """Return the mean."""
    return float(values.mean())


def ratio(
    ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]], statistic: Statistic, *, seed: int = 0
) -> Interval:
    """Return ``statistic`` of ours ÷ of theirs; both are lists of repeats, each a list of observations.

    The n-th repeats of both ran one after the other, so a draw takes the same repeats of both: what drifted on the
    machine cancels out.
    """
    ours_in, theirs_in = [np.asarray(repeat) for repeat in ours], [np.asarray(repeat) for repeat in theirs]
    random = np.random.default_rng(seed)
    drawn = []
    for _ in range(DRAWS):
        repeats = random.integers(0, len(ours_in), len(ours_in))
        above, below = (_resampled(side, repeats, random) for side in (ours_in, theirs_in))
        drawn.append(statistic(above) / statistic(below))
    low, high = np.percentile(drawn, [OUTSIDE, 100 - OUTSIDE])
    return Interval(statistic(np.concatenate(ours_in)) / statistic(np.concatenate(theirs_in)), float(low), float(high))


def _resampled(repeats: list[Values], chosen: NDArray[np.int64], random: np.random.Generator) -> Values:
    return np.concatenate([random.choice(repeats[number], repeats[number].size) for number in chosen])
