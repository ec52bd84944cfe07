"""How alike two texts are: the metrics, each a number from 0 (nothing in common) to 1.

Words are runs of letters and digits of any script, and for ``bleu``, ``gleu`` and ``meteor`` runs of punctuation too.
nltk and rouge-score (which imports nltk) are imported where they are called: they take more than a second.
No metric reads a corpus, so that nothing is ever downloaded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import sqrt
from typing import Final

from rapidfuzz import fuzz
from rapidfuzz.distance import LCSseq

MAX_CHARACTERS: Final = 100_000
"""Of each text: some metrics take time by the product of both lengths, a fifth of a second at this one."""

_WORD: Final = re.compile(r"[^\W_]+")
_WORD_OR_PUNCTUATION: Final = re.compile(r"\w+|[^\w\s]+")

Metric = Callable[[str, str], float]
"""Of a text and its reference."""


def fuzzy_match(text: str, reference: str) -> float:
    """Return rapidfuzz's plain ratio.

    Not its WRatio: that rewards an answer for merely holding the reference, and takes forty seconds for two texts of
    10,000 characters.
    """
    return fuzz.ratio(text, reference) / 100


def bleu(text: str, reference: str) -> float:
    """Return BLEU-4 of one sentence, smoothed as mteval does; a text of fewer than four words has shorter n-grams."""
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    smoothed = SmoothingFunction().method3
    return float(sentence_bleu([_words(reference)], _words(text), smoothing_function=smoothed, auto_reweigh=True))


def gleu(text: str, reference: str) -> float:
    """Return Google's BLEU of one sentence."""
    from nltk.translate.gleu_score import sentence_gleu

    return float(sentence_gleu([_words(reference)], _words(text)))


def meteor(text: str, reference: str) -> float:
    """Return METEOR with its first two stages, equal words and equal Porter stems; synonyms would need WordNet."""
    from nltk.translate.meteor_score import single_meteor_score

    return float(single_meteor_score(_words(reference), _words(text), wordnet=_NoSynonyms()))


def rouge_n(n: int, text: str, reference: str) -> float:
    """Return the F-measure of the n-grams that both have."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer([f"rouge{n}"], tokenizer=_Words())
    return float(scorer.score(reference, text)[f"rouge{n}"].fmeasure)


def rouge_l(text: str, reference: str) -> float:
    """Return the F-measure of the longest common subsequence of words.

    rouge-score's own table of it takes a gigabyte at 10,000 words; this is the same number.
    """
    words, expected = _Words().tokenize(text), _Words().tokenize(reference)
    common = LCSseq.similarity(words, expected)
    return 2 * common / (len(words) + len(expected)) if common else 0.0


def cosine(vector: Sequence[float], other: Sequence[float]) -> float:
    """Return the cosine between two vectors; opposite ones are no more unlike than unrelated ones."""
    lengths = sqrt(sum(x * x for x in vector)) * sqrt(sum(x * x for x in other))
    return min(1.0, max(0.0, sum(x * y for x, y in zip(vector, other, strict=True)) / lengths)) if lengths else 0.0


METRICS: Final[Mapping[str, Metric]] = {
    "fuzzy_match": fuzzy_match,
    "bleu": bleu,
    "gleu": gleu,
    "meteor": meteor,
    **{f"rouge_{n}": partial(rouge_n, n) for n in range(1, 6)},
    "rouge_l": rouge_l,
}
"""By OpenAI's names; ``cosine`` is of vectors and stands beside them."""


class _Words:
    """rouge-score's tokenizer for any script: its own drops whatever is not a–z, and Greek would always score 0."""

    def tokenize(self, text: str) -> list[str]:
        return _WORD.findall(text.lower())


class _NoSynonyms:
    """Stands where nltk would load WordNet."""

    def synsets(self, _word: str) -> tuple[()]:
        return ()


def _words(text: str) -> list[str]:
    return _WORD_OR_PUNCTUATION.findall(text)
