"""Confidence intervals of ratios: bootstrap over the rounds, and within each round over its observations."""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

DRAWS: Final = 1000
OUTSIDE: Final = 2.5
"""Percent of the draws below the interval; as many are above."""

Values = NDArray[np.float64]
Statistic = Callable[[Values], float]


class Interval(NamedTuple):
    """A number with its 95 % confidence interval."""

    value: float
    low: float
    high: float

    def row(self) -> list[float]:
        """Return value, low and high, rounded to four digits."""
        return [round(number, 4) for number in self]

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def quantile(of: float) -> Statistic:
    """Return the statistic that computes the quantile ``of`` (0 to 1)."""
    return lambda values: float(np.quantile(values, of))


def mean(values: Values) -> float:
    """Return the mean of ``values``."""
    return float(values.mean())


def ratio(
    ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]], statistic: Statistic, *, seed: int = 0
) -> Interval:
    """Return ``statistic`` of ours ÷ ``statistic`` of theirs; both are lists of rounds, each a list of observations.

    The n-th rounds of both ran one after the other, so each draw takes the same rounds of both: drift of the machine's
    speed cancels out.
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
