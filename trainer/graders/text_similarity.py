"""``text_similarity``: how alike two texts are, by one of several metrics."""

from __future__ import annotations

import asyncio
from typing import Literal

from trainer.errors import InvalidField
from trainer.graders.grade import Grade, Trouble, Ungraded
from trainer.graders.grader import Grader
from trainer.graders.models import Models, NotAnswered
from trainer.graders.sample import Sample
from trainer.graders.similarity import MAX_CHARACTERS, METRICS, cosine
from trainer.graders.template import Template, render


class TextSimilarityGrader(Grader):
    """Compares ``input`` with ``reference``; ``cosine`` needs a base model that embeds."""

    type: Literal["text_similarity"]
    input: Template
    reference: Template
    evaluation_metric: Literal[
        "cosine",
        "fuzzy_match",
        "bleu",
        "gleu",
        "meteor",
        "rouge_1",
        "rouge_2",
        "rouge_3",
        "rouge_4",
        "rouge_5",
        "rouge_l",
    ]

    def check(self, models: Models, where: str) -> None:
        """See ``Grader.check``."""
        if self.evaluation_metric == "cosine" and not models.can_embed:
            raise InvalidField(
                "cosine compares embeddings, and the base model that this server runs makes none: start the server "
                "with an embedding model, or choose fuzzy_match, bleu, gleu, meteor or a rouge",
                param=f"{where}.evaluation_metric",
            )

    async def score(self, sample: Sample, models: Models) -> Grade:
        """See ``Grader.score``. Off the event loop: the longest texts take a fifth of a second."""
        text, reference = render(self.input, sample), render(self.reference, sample)
        longest = max(len(text), len(reference))
        if longest > MAX_CHARACTERS:
            raise Ungraded(
                Trouble.OTHER,
                f"text_similarity compares texts of up to {MAX_CHARACTERS:,} characters, and one has {longest:,}",
            )
        if self.evaluation_metric == "cosine":
            return Grade(await _cosine(text, reference, models))
        return Grade(await asyncio.to_thread(METRICS[self.evaluation_metric], text, reference))


async def _cosine(text: str, reference: str, models: Models) -> float:
    try:
        vector, other = await models.embed(text, reference)
    except NotAnswered as refused:
        raise Ungraded(Trouble.MODEL_SERVER, str(refused)) from refused
    return cosine(vector, other)
