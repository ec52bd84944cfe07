"""``string_check``: 1 if a text equals, differs from or contains another one, else 0."""

from __future__ import annotations

from typing import Literal

from trainer.graders.grader import Grade, Grader, Sample
from trainer.graders.models import Models
from trainer.graders.template import Template, render


class StringCheckGrader(Grader):
    """OpenAI's operations: ``eq``, ``ne``, ``like`` (the input contains the reference), ``ilike`` (ignoring case)."""

    type: Literal["string_check"]
    input: Template
    reference: Template
    operation: Literal["eq", "ne", "like", "ilike"]

    async def score(self, sample: Sample, models: Models) -> Grade:
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
