"""The rule of a verdict, on simulated scores whose truth is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import pytest

from adapters.gate import VerdictResult
from trainer.verdicts.judged_rows import Scores
from trainer.verdicts.judgement import LEVEL, Contestant, judge, use_of_question

MEASURES = ("exact_match", "likelihood")
SEEDS = range(20)


@dataclass(frozen=True)
class Model:
    """A simulated model: how often it is exact, and how likely it finds a reference answer, in nats per token."""

    exact: float
    likelihood: float

    def scores(self, difficulty: np.ndarray, draw: np.random.Generator) -> Scores:
        """Hard rows are hard for every model; likelihoods have a long tail below."""
        exact = draw.random(difficulty.size) + 0.3 * (difficulty - difficulty.mean()) < self.exact
        tail = draw.exponential(0.4, difficulty.size)
        return {
            "exact_match": exact.astype(float).tolist(),
            "likelihood": (self.likelihood - difficulty - tail).tolist(),
        }


BASE = Model(0.02, -2.5)
EXAMPLES = Model(0.2, -1.6)
BASE_ON_OTHERS = Model(0.02, -3.0)
KINDS = {
    "the real one": (Model(0.8, -0.3), Model(0.1, -2.0), VerdictResult.BETTER),
    "one for style, which answers as base does otherwise": (Model(0.6, -0.5), Model(0.0, -2.0), VerdictResult.BETTER),
    "shuffled labels": (Model(0.34, -1.1), Model(0.34, -1.1), VerdictResult.NO_GAIN),
    "shuffled labels whose words are in the question": (Model(0.02, -0.8), Model(0.02, -1.0), VerdictResult.NO_GAIN),
    "an overfitted one": (Model(0.03, -4.0), Model(0.02, -5.0), VerdictResult.WORSE),
}
"""The candidate, and with the question of another row; the right verdict."""


@pytest.mark.parametrize("kind", KINDS)
def test_the_verdict_is_right_in_20_of_20_repeats(kind: str) -> None:
    candidate, on_others, right = KINDS[kind]
    verdicts = []
    for seed in SEEDS:
        draw = np.random.default_rng(seed)
        difficulty = draw.exponential(0.5, 100)
        base, examples, of_candidate = (model.scores(difficulty, draw) for model in (BASE, EXAMPLES, candidate))
        of_base_on_others, of_others = (model.scores(difficulty, draw) for model in (BASE_ON_OTHERS, on_others))
        used = [use_of_question(base, of_base_on_others), use_of_question(of_candidate, of_others)]
        contestants = [
            Contestant("base", "base", base),
            Contestant("base with 4 examples", "base", examples),
            Contestant("base by its use of the question", "base", *used),
        ]
        verdicts.append(judge(of_candidate, contestants, MEASURES, seed=seed).result)
    assert verdicts == [right] * len(SEEDS)


@pytest.mark.parametrize("rows", [20, 50])
def test_all_intervals_together_cover_the_truth(rows: int) -> None:
    """The truth is the mean difference of scores over all rows that there could be."""
    cases, covered = 100, 0
    for seed in range(cases):
        draw = np.random.default_rng(seed)
        difficulty = draw.exponential(0.5, 10_000)
        models = [Model(*draw.uniform((0.02, -3.0), (0.95, -0.2))) for _ in range(3)]
        of_all = [model.scores(difficulty, draw) for model in models]
        drawn = draw.integers(0, difficulty.size, rows).tolist()
        few = [{name: [values[row] for row in drawn] for name, values in scores.items()} for scores in of_all]
        truth = [[fmean(of_all[0][measure]) - fmean(other[measure]) for measure in MEASURES] for other in of_all[1:]]
        judged = judge(few[0], [Contestant("a", "a", few[1]), Contestant("b", "b", few[2])], MEASURES, seed=seed)
        covered += all(
            number in beside.comparisons[measure].interval
            for beside, numbers in zip(judged.beside, truth, strict=True)
            for measure, number in zip(MEASURES, numbers, strict=True)
        )
    assert covered >= 0.9 * cases


def test_two_equal_models_are_told_apart_no_more_often_than_the_level_says() -> None:
    cases, different = 100, 0
    for seed in range(cases):
        draw = np.random.default_rng(seed)
        difficulty = draw.exponential(0.5, 60)
        one, other = (Model(0.4, -1.0).scores(difficulty, draw) for _ in range(2))
        different += (
            judge(one, [Contestant("base", "base", other)], MEASURES, seed=seed).result != VerdictResult.NO_GAIN
        )
    assert different <= 2 * (1 - LEVEL) * cases


Flat = Callable[[float, float], Scores]


@pytest.fixture
def flat() -> Flat:
    """Scores that are nearly the same on forty rows."""

    def make(exact: float, likelihood: float) -> Scores:
        small = np.linspace(-0.01, 0.01, 40)
        return {"exact_match": [exact] * 40, "likelihood": (likelihood + small).tolist()}

    return make


@pytest.mark.parametrize(
    ("exact", "likelihood", "right"),
    [
        (1.0, -1.0, VerdictResult.BETTER),
        (0.0, -0.5, VerdictResult.BETTER),
        (0.0, -2.0, VerdictResult.WORSE),
        (1.0, -2.0, VerdictResult.NO_GAIN),
        (0.0, -1.0, VerdictResult.NO_GAIN),
    ],
)
def test_better_on_one_measure_and_worse_on_none(
    flat: Flat, exact: float, likelihood: float, right: VerdictResult
) -> None:
    judged = judge(flat(exact, likelihood), [Contestant("base", "base", flat(0.0, -1.0))], MEASURES, seed=0)
    assert judged.result is right


def test_a_candidate_that_loses_to_examples_in_the_prompt_is_worse(flat: Flat) -> None:
    contestants = [
        Contestant("base", "base", flat(0.0, -3.0)),
        Contestant("base with 8 examples", "base", flat(0.0, -0.5)),
    ]
    judged = judge(flat(0.0, -1.0), contestants, MEASURES, seed=0)
    assert judged.result is VerdictResult.WORSE
    assert str(judged).startswith("worse than base with 8 examples (exact match +0")
    assert str(judged).endswith("on 40 rows")


def test_what_could_not_serve_makes_no_verdict_worse(flat: Flat) -> None:
    contestants = [
        Contestant("base", "base", flat(0.0, -3.0)),
        Contestant("base by its use of the question", "base", flat(0.0, 0.5), flat(0.0, 0.1)),
    ]
    assert judge(flat(0.0, -1.0), contestants, MEASURES, seed=0).result is VerdictResult.NO_GAIN


def test_few_rows_show_no_gain(flat: Flat) -> None:
    few = {measure: values[:3] for measure, values in flat(1.0, -0.1).items()}
    base = {measure: values[:3] for measure, values in flat(0.0, -3.0).items()}
    assert judge(few, [Contestant("base", "base", base)], MEASURES, seed=0).result is VerdictResult.NO_GAIN


def test_a_score_that_is_no_number_is_no_verdict(flat: Flat) -> None:
    scores = {**flat(1.0, -0.1), "likelihood": [float("nan")] * 40}
    with pytest.raises(ValueError, match="not a finite number"):
        judge(scores, [Contestant("base", "base", flat(0.0, -3.0))], MEASURES, seed=0)
