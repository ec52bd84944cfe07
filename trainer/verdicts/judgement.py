"""The rule of a verdict: a candidate is compared with each contestant, row by row, on one or two measures.

Beside one contestant the candidate is better if it is better on one measure and worse on none, and worse the other way
round; better on one and worse on the other is no gain. The verdict is worse if it is worse than any contestant that
could serve in its place, better if it is better than all of them, and else no gain.

One contestant is compared in another way: base by its use of the question. That is the difference of a model's scores
between the row's question and another row's (usable information, Ethayarajh et al. 2022, arXiv:2110.08420). Labels that
were shuffled teach the form of answers, which is a gain over base; they do not teach to use the question.

All intervals together hold with probability ``LEVEL``: each has Bonferroni's part of the rest. So a contestant more
makes a verdict harder to win, never easier.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Final

from adapters.gate import VerdictResult
from trainer.evals.comparison import ScoreComparison, compare
from trainer.verdicts.judged_rows import Scores

LEVEL: Final = 0.95
"""Of all intervals of a verdict together."""
DRAWS: Final = 10_000
"""Of each bootstrap: Bonferroni's quantiles lie far outside."""
_SHOWN: Final = {
    "exact_match": "exact match",
    "likelihood": "likelihood",
    "reward": "reward",
    "preference_accuracy": "preference accuracy",
    "preference_margin": "preference margin",
}


@dataclass(frozen=True, slots=True)
class Contestant:
    """What the candidate is compared with."""

    name: str
    """As messages have it: ``base with 4 examples``."""
    model: str
    """As requests name it."""
    scores: Scores
    of_candidate: Scores | None = None
    """What it is compared with, where that is not the candidate's scores."""

    @property
    def serves(self) -> bool:
        """Whether it could serve in the candidate's place. One that cannot may keep a verdict from "better" alone."""
        return self.of_candidate is None


@dataclass(frozen=True, slots=True)
class Beside:
    """The candidate beside one contestant."""

    contestant: Contestant
    comparisons: Mapping[str, ScoreComparison]
    """By measure."""
    result: VerdictResult

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.contestant.name,
            "model": self.contestant.model,
            "result": self.result,
            "means": means(self.contestant.scores),
            **({} if self.contestant.serves else {"candidate": means(self.contestant.of_candidate or {})}),
            "differences": {measure: _difference(found) for measure, found in self.comparisons.items()},
        }

    def __str__(self) -> str:
        shown = (f"{_SHOWN.get(measure, measure)} {_signed(found)}" for measure, found in self.comparisons.items())
        return f"{self.contestant.name} ({', '.join(shown)})"


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict and the numbers behind it."""

    result: VerdictResult
    beside: Sequence[Beside]
    rows: int
    level: float
    """Of each interval, so that all together have ``LEVEL``."""

    def __str__(self) -> str:
        """The verdict in a line: beside which contestants it holds, by how much, on how many rows."""
        match self.result:
            case VerdictResult.BETTER:
                words, shown = "better than", self.beside
            case VerdictResult.WORSE:
                words, shown = "worse than", [each for each in self.beside if _counts_as_worse(each)]
            case VerdictResult.NO_GAIN:
                words, shown = "not better than", [each for each in self.beside if each.result != VerdictResult.BETTER]
        return f"{words} {'; '.join(map(str, shown))}, on {self.rows} rows"


def judge(candidate: Scores, contestants: Sequence[Contestant], measures: Sequence[str], *, seed: int) -> Judgement:
    """Return the verdict on ``candidate`` by the ``measures``, which all contestants have for the same rows.

    Raises:
        ValueError: there are no rows, no contestants, or a score that is not finite.
    """
    if not contestants:
        raise ValueError("there is nothing to compare with")
    level = 1 - (1 - LEVEL) / (len(contestants) * len(measures))
    beside = [_beside(candidate, contestant, measures, level, seed) for contestant in contestants]
    if any(map(_counts_as_worse, beside)):
        result = VerdictResult.WORSE
    elif all(each.result is VerdictResult.BETTER for each in beside):
        result = VerdictResult.BETTER
    else:
        result = VerdictResult.NO_GAIN
    return Judgement(result, beside, len(candidate[measures[0]]), level)


def use_of_question(scores: Scores, other: Scores) -> Scores:
    """Return a model's ``scores`` above those that it has when it reads the question of another row."""
    return {
        measure: [own - blind for own, blind in zip(values, other[measure], strict=True)]
        for measure, values in scores.items()
    }


def means(scores: Scores) -> dict[str, float]:
    """Return the mean of each measure."""
    return {measure: fmean(values) for measure, values in scores.items()}


def _beside(candidate: Scores, contestant: Contestant, measures: Sequence[str], level: float, seed: int) -> Beside:
    own = contestant.of_candidate or candidate
    comparisons = {
        measure: compare(own[measure], contestant.scores[measure], level=level, draws=DRAWS, seed=seed)
        for measure in measures
    }
    is_better, is_worse = (
        any(getattr(found, way) for found in comparisons.values()) for way in ("is_better", "is_worse")
    )
    result = VerdictResult.NO_GAIN
    if is_better is not is_worse:
        result = VerdictResult.BETTER if is_better else VerdictResult.WORSE
    return Beside(contestant, comparisons, result)


def _counts_as_worse(beside: Beside) -> bool:
    return beside.contestant.serves and beside.result is VerdictResult.WORSE


def _difference(found: ScoreComparison) -> dict[str, Any]:
    counts = {name: getattr(found, name).count for name in ("wins", "ties", "losses")}
    return {"mean": found.difference, "low": found.interval.low, "high": found.interval.high, **counts}


def _signed(found: ScoreComparison) -> str:
    return f"{found.difference:+.3g}, {found.interval.low:+.3g} to {found.interval.high:+.3g}"
