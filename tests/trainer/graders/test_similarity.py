"""The metrics: published and hand-made values, and what they have in common."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from trainer.graders.text_similarity import METRICS, cosine, rouge_l

# rouge-score's README
FOX, LOG = "The quick brown fox jumps over the lazy dog", "The quick brown dog jumps on the log."
# nltk's docstrings of METEOR and of Google's BLEU
GUIDE = "It is a guide to action which ensures that the military always obeys the commands of the party"
REFERENCE = "It is a guide to action that ensures that the military will forever heed Party commands"


@pytest.mark.parametrize(
    ("metric", "text", "reference", "value"),
    [
        ("fuzzy_match", "this is a test", "this is a test!", 28 / 29),  # rapidfuzz's README: 96.55
        ("fuzzy_match", "kitten", "sitting", 8 / 13),
        ("fuzzy_match", "yes", "yes, and a lot of other words", 6 / 32),
        ("bleu", GUIDE, REFERENCE, 0.4118),
        ("bleu", "the cat", "the cat", 1),
        ("gleu", GUIDE, REFERENCE, 0.4394),
        ("gleu", "the cat", "the cat sat", 3 / 6),
        ("meteor", GUIDE, REFERENCE, 0.6944),
        ("meteor", "dogs running", "dog runs", 0.9375),  # 1 - 0.5 · (1 chunk / 2 words)³: stems are equal
        ("meteor", "this is a cat", "non matching hypothesis", 0),
        ("rouge_1", LOG, FOX, 2 * 0.75 * (2 / 3) / (0.75 + 2 / 3)),
        ("rouge_2", LOG, FOX, 4 / 15),
        ("rouge_3", "a b c d", "a b c e", 0.5),
        ("rouge_4", "a b c d e", "a b c d f", 0.5),
        ("rouge_5", "a b c d e", "a b c d e", 1),
        ("rouge_l", LOG, FOX, 10 / 17),
        ("rouge_1", "Ο ΣΚΎΛΟΣ τρέχει", "ο σκύλος κοιμάται", 2 / 3),
    ],
)
def test_a_metric_has_its_known_value(metric: str, text: str, reference: str, value: float):
    assert METRICS[metric](text, reference) == pytest.approx(value, abs=5e-5)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("text", "reference"), [("", "a b c"), ("a b c", ""), ("x y z v w", "a b c d e")])
def test_nothing_in_common_is_worth_nothing(metric: str, text: str, reference: str):
    assert METRICS[metric](text, reference) == pytest.approx(0, abs=0.5 if metric == "fuzzy_match" and text else 0)


@pytest.mark.parametrize("metric", METRICS)
@given(text=st.text(max_size=80), reference=st.text(max_size=80))
def test_every_metric_is_a_share_of_one(metric: str, text: str, reference: str):
    assert 0 <= METRICS[metric](text, reference) <= 1


@given(st.lists(st.sampled_from("abcd")), st.lists(st.sampled_from("abcd")))
def test_rouge_l_is_what_rouge_score_says(text: list[str], reference: list[str]):
    expected = RougeScorer(["rougeL"]).score(" ".join(reference), " ".join(text))["rougeL"].fmeasure
    assert rouge_l(" ".join(text), " ".join(reference)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("vector", "other", "value"),
    [([1, 0], [1, 0], 1), ([1, 0], [0, 1], 0), ([1, 0], [-1, 0], 0), ([3, 4], [4, 3], 0.96), ([0, 0], [1, 0], 0)],
)
def test_cosine_is_of_directions(vector: list[float], other: list[float], value: float):
    assert cosine(vector, other) == pytest.approx(value)


def test_the_slow_libraries_are_imported_by_the_first_grade_only():
    program = "import sys, trainer.graders.parsing; sys.exit(', '.join({'nltk', 'rouge_score'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""
