"""``text_similarity``: the similarity of two texts by one of OpenAI's metrics, from 0 (nothing in common) to 1.

Words are runs of letters and digits of any script; for ``bleu``, ``gleu`` and ``meteor`` runs of punctuation too.
nltk and rouge-score (which imports nltk) are imported on first use: they take more than a second. No metric reads a
corpus, so nothing is downloaded.
"""

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import sqrt
from types import SimpleNamespace
from typing import Final, Literal

from rapidfuzz import fuzz
from rapidfuzz.distance import LCSseq

from trainer.errors import InvalidField
from trainer.graders.grader import Grade, Grader, GradingError, Sample, Ungraded
from trainer.graders.models import Models, NotAnswered
from trainer.graders.template import Template, render

MAX_CHARACTERS: Final = 100_000
"""Of each text. Some metrics take time proportional to the product of both lengths: 0.2 s at this limit."""

_WORD: Final = re.compile(r"[^\W_]+")
_WORD_OR_PUNCTUATION: Final = re.compile(r"\w+|[^\w\s]+")

Rouge = Literal["rouge_1", "rouge_2", "rouge_3", "rouge_4", "rouge_5", "rouge_l"]

Metric = Callable[[str, str], float]
"""Takes a text and its reference."""


def fuzzy_match(text: str, reference: str) -> float:
    """Return rapidfuzz's ``ratio``.

    ``WRatio`` would reward an answer for merely containing the reference, and takes 40 s for two texts of 10,000
    characters.
    """
    return fuzz.ratio(text, reference) / 100


def bleu(text: str, reference: str) -> float:
    """Return BLEU-4 of one sentence, smoothed as mteval does; with shorter n-grams for fewer than four words."""
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    smoothed = SmoothingFunction().method3
    tokens, expected = _tokens(text), _tokens(reference)
    return float(sentence_bleu([expected], tokens, smoothing_function=smoothed, auto_reweigh=True))


def gleu(text: str, reference: str) -> float:
    """Return Google's BLEU of one sentence."""
    from nltk.translate.gleu_score import sentence_gleu

    return float(sentence_gleu([_tokens(reference)], _tokens(text)))


def meteor(text: str, reference: str) -> float:
    """Return METEOR with its stages for equal words and equal Porter stems; its synonym stage would need WordNet."""
    from nltk.translate.meteor_score import single_meteor_score

    no_synonyms = SimpleNamespace(synsets=lambda _word: ())
    return float(single_meteor_score(_tokens(reference), _tokens(text), wordnet=no_synonyms))


def rouge_n(n: int, text: str, reference: str) -> float:
    """Return the F-measure of common n-grams of words.

    rouge-score's own tokenizer drops everything but a to z, so that Greek would always score 0.
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer([f"rouge{n}"], tokenizer=SimpleNamespace(tokenize=_words))
    return float(scorer.score(reference, text)[f"rouge{n}"].fmeasure)


def rouge_l(text: str, reference: str) -> float:
    """Return the F-measure of the longest common subsequence of words.

    The same value as rouge-score's, whose table takes 1 GB at 10,000 words.
    """
    words, expected = _words(text), _words(reference)
    common = LCSseq.similarity(words, expected)
    return 2 * common / (len(words) + len(expected)) if common else 0.0


def cosine(vector: Sequence[float], other: Sequence[float]) -> float:
    """Return the cosine similarity of two vectors, 0 if it is negative or a vector is zero."""
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
"""By OpenAI's names, without ``cosine``, which compares vectors."""


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _tokens(text: str) -> list[str]:
    return _WORD_OR_PUNCTUATION.findall(text)


class TextSimilarityGrader(Grader):
    """Compares ``input`` with ``reference``; ``cosine`` needs an embedding base model."""

    type: Literal["text_similarity"]
    input: Template
    reference: Template
    evaluation_metric: Literal["cosine", "fuzzy_match", "bleu", "gleu", "meteor", Rouge]

    @property
    def asks_models(self) -> bool:
        return self.evaluation_metric == "cosine"

    async def check(self, models: Models, where: str) -> None:
        if self.evaluation_metric == "cosine" and not models.can_embed:
            raise InvalidField(
                "cosine compares embeddings, and this server's base model makes none: start the server with an "
                "embedding model, or choose fuzzy_match, bleu, gleu, meteor or a rouge",
                param=f"{where}.evaluation_metric",
            )

    async def score(self, sample: Sample, models: Models) -> Grade:
        """Runs in a thread: the longest texts take 0.2 s."""
        text, reference = render(self.input, sample), render(self.reference, sample)
        longest = max(len(text), len(reference))
        if longest > MAX_CHARACTERS:
            raise Ungraded(
                GradingError.OTHER,
                f"text_similarity compares texts of up to {MAX_CHARACTERS:,} characters, and one has {longest:,}",
            )
        if self.evaluation_metric == "cosine":
            return Grade(await _cosine(text, reference, models))
        return Grade(await asyncio.to_thread(METRICS[self.evaluation_metric], text, reference))


async def _cosine(text: str, reference: str, models: Models) -> float:
    try:
        vector, other = await models.embed(text, reference)
    except NotAnswered as refused:
        raise Ungraded(GradingError.MODEL_SERVER, str(refused)) from refused
    return cosine(vector, other)
