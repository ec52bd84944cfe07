"""Compares two models by their scores on the same items: difference, intervals, wins and losses.

The interval of the difference is a paired bootstrap: items are drawn with both scores, so that hard items do not blur
it. Two imagined items are drawn too, one on which each side is better by the largest difference that was seen (Bonett
and Price, 2012, for pairs of proportions). Without them, thirty items with equal scores would give an interval of width
0, although a difference on one item in a hundred is likely to stay unseen. The percentiles are those of Hesterberg's
expanded interval (2015), since plain ones are as narrow for few items as if the spread were known.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist
from typing import Final

import numpy as np

DRAWS: Final = 4000
LEVEL: Final = 0.95
_TOGETHER: Final = 2_000_000
"""Numbers drawn at once, which bounds the memory."""


@dataclass(frozen=True, slots=True)
class ConfidenceInterval:
    """A confidence interval."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True, slots=True)
class Rate:
    """A part of all items, with its interval."""

    count: int
    value: float
    interval: ConfidenceInterval


@dataclass(frozen=True, slots=True)
class ScoreComparison:
    """A model beside a baseline, over the items that both have scores for."""

    items: int
    difference: float
    """Mean score of the model minus that of the baseline."""
    interval: ConfidenceInterval
    """Of the difference."""
    wins: Rate
    """Items on which the model scores higher."""
    ties: Rate
    losses: Rate

    @property
    def is_better(self) -> bool:
        """Whether the whole interval lies above 0."""
        return self.interval.low > 0

    @property
    def is_worse(self) -> bool:
        """Whether the whole interval lies below 0."""
        return self.interval.high < 0


def compare(
    scores: Sequence[float], baseline: Sequence[float], *, level: float = LEVEL, draws: int = DRAWS, seed: int = 0
) -> ScoreComparison:
    """Compare ``scores`` with those of ``baseline``: the n-th numbers of both belong to the same item.

    Raises:
        ValueError: the numbers of scores differ, there are none, or a score is not finite.
    """
    if len(scores) != len(baseline) or not scores:
        raise ValueError(f"a comparison needs scores of the same items: {len(scores)} beside {len(baseline)}")
    differences = np.asarray(scores, np.float64) - np.asarray(baseline, np.float64)
    if not np.isfinite(differences).all():
        raise ValueError("a score is not a finite number")
    counts = [int(count) for count in ((differences > 0).sum(), (differences == 0).sum(), (differences < 0).sum())]
    wins, ties, losses = (rate(count, len(differences), level=level) for count in counts)
    interval = mean_interval(differences.tolist(), level=level, draws=draws, seed=seed)
    return ScoreComparison(len(differences), float(differences.mean()), interval, wins, ties, losses)


def mean_interval(
    differences: Sequence[float], *, level: float = LEVEL, draws: int = DRAWS, seed: int = 0
) -> ConfidenceInterval:
    """Return the bootstrap interval of the mean of one or more ``differences``.

    Where all are 0, the imagined items differ by 1.
    """
    seen = np.asarray(differences, np.float64)
    largest = float(np.abs(seen).max()) or 1.0
    values = np.concatenate([seen, [largest, -largest]])
    random = np.random.default_rng(seed)
    at_once = max(1, _TOGETHER // values.size)
    means = np.concatenate(
        [
            values[random.integers(0, values.size, (min(at_once, draws - start), values.size))].mean(axis=1)
            for start in range(0, draws, at_once)
        ]
    )
    outside = _outside(level, values.size, int((seen != 0).sum()))
    low, high = np.quantile(means, [outside, 1 - outside])
    mean = float(seen.mean())  # the imagined items draw the interval towards 0: it must not leave the mean behind
    return ConfidenceInterval(min(float(low), mean), max(float(high), mean))


def _outside(level: float, items: int, differing: int) -> float:
    """Return the part of the draws below the interval, and above: less than for a known spread, by Student's t.

    The spread is known as well as the items that differ are many.
    """
    z, degrees = NormalDist().inv_cdf((1 + level) / 2), min(items - 1, differing + 4)
    t = z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
    return NormalDist().cdf(-t * sqrt(items / (items - 1)))


def rate(count: int, total: int, *, level: float = LEVEL) -> Rate:
    """Return ``count`` of ``total`` as a rate with Wilson's interval."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = count / total
    centre, scale = share + z * z / (2 * total), 1 + z * z / total
    half = z * sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    low, high = (centre - half) / scale, (centre + half) / scale
    return Rate(count, share, ConfidenceInterval(max(0.0, min(low, share)), min(1.0, max(high, share))))
