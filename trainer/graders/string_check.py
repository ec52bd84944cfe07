"""``string_check``: 1 if a text is, is not or contains another one, else 0."""

from __future__ import annotations

from typing import Literal

from trainer.graders.grade import Grade
from trainer.graders.grader import Grader
from trainer.graders.models import Models
from trainer.graders.sample import Sample
from trainer.graders.template import Template, render


class StringCheckGrader(Grader):
    """OpenAI's operations: ``eq``, ``ne``, and ``like``: the input contains the reference; ``ilike``: in any case."""

    type: Literal["string_check"]
    input: Template
    reference: Template
    operation: Literal["eq", "ne", "like", "ilike"]

    async def score(self, sample: Sample, models: Models) -> Grade:
        """See ``Grader.score``."""
        text, reference = render(self.input, sample), render(self.reference, sample)
        match self.operation:
            case "eq":
                holds = text == reference
            case "ne":
                holds = text != reference
            case "like":
                holds = reference in text
            case "ilike":
                holds = reference.casefold() in text.casefold()
        return Grade(float(holds))
