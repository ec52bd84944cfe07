"""What was counted on one side of a rollout, as sums that servers add up: counts, histograms, scores. No texts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

_PER_OCTAVE: Final = 8
"""Buckets of a histogram for each doubling: a quantile is exact to 5 %."""
_SHORTEST_S: Final = 1e-6


class RolloutTally:
    """Numbers by name.

    ``latency:-12`` is a bucket of the histogram of latencies; ``scored:3f…``, ``scores:3f…`` and ``squares:3f…`` are
    the number, the sum and the sum of the squares of a grader's scores; ``dropped``, ``compared``, ``equal`` and
    ``agreement`` are of shadow answers.
    """

    def __init__(self, numbers: Mapping[str, float] | None = None) -> None:
        self.numbers = dict(numbers or {})

    def __getitem__(self, name: str) -> float:
        return self.numbers.get(name, 0)

    def __add__(self, other: RolloutTally) -> RolloutTally:
        summed = RolloutTally(self.numbers)
        for name, number in other.numbers.items():
            summed.count(name, number)
        return summed

    def count(self, name: str, number: float = 1) -> None:
        self.numbers[name] = self.numbers.get(name, 0) + number

    def observe(self, name: str, seconds: float) -> None:
        """Count ``seconds`` in the histogram ``name``."""
        self.count(f"{name}:{math.ceil(math.log2(max(seconds, _SHORTEST_S)) * _PER_OCTAVE)}")

    def score(self, name: str, score: float) -> None:
        """Count a score of the grader ``name``."""
        self.count(f"scored:{name}")
        self.count(f"scores:{name}", score)
        self.count(f"squares:{name}", score * score)

    @property
    def requests(self) -> int:
        return int(self["requests"])

    @property
    def good(self) -> int:
        """Requests without an error."""
        return int(self["requests"] - self["errors"])

    @property
    def error_rate(self) -> float | None:
        """Errors for each request; None: there was no request."""
        return self["errors"] / self["requests"] if self["requests"] else None

    def scored(self, name: str) -> int:
        return int(self[f"scored:{name}"])

    def mean_score(self, name: str) -> float | None:
        """Return the mean score of the grader ``name``; None: it has scored nothing."""
        scored = self.scored(name)
        return self[f"scores:{name}"] / scored if scored else None

    def score_deviation(self, name: str) -> float:
        """Return the standard deviation of two or more scores of the grader ``name``."""
        scored = self.scored(name)
        squares = self[f"squares:{name}"] - self[f"scores:{name}"] ** 2 / scored
        return math.sqrt(max(0.0, squares) / (scored - 1))

    def mean(self, name: str, of: str) -> float | None:
        """Return the sum ``name`` for each one that ``of`` counts; None: there is none."""
        return self[name] / self[of] if self[of] else None

    def observed(self, name: str) -> int:
        """Return the number of values in the histogram ``name``."""
        return int(sum(count for _, count in self._buckets(name)))

    def quantile(self, name: str, share: float) -> float | None:
        """Return the seconds that ``share`` of the values of a histogram do not exceed; None: it has no values."""
        buckets = self._buckets(name)
        wanted = share * sum(count for _, count in buckets)
        below = 0.0
        for bucket, count in buckets:
            below += count
            if below >= wanted:
                return float(2 ** ((bucket - 0.5) / _PER_OCTAVE))
        return None

    def _buckets(self, name: str) -> list[tuple[int, float]]:
        prefix = f"{name}:"
        found = ((key, count) for key, count in self.numbers.items() if key.startswith(prefix))
        return sorted((int(key.removeprefix(prefix)), count) for key, count in found)
