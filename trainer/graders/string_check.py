"""``string_check``: 1 if a text equals, differs from or contains another one, else 0."""

import operator
from collections.abc import Callable, Mapping
from typing import Final, Literal

from trainer.graders.grader import Grade, Grader, Sample
from trainer.graders.models import Models
from trainer.graders.template import Template, render

_OPERATIONS: Final[Mapping[str, Callable[[str, str], bool]]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "like": operator.contains,
    "ilike": lambda text, reference: reference.casefold() in text.casefold(),
}


class StringCheckGrader(Grader):
    """OpenAI's operations: ``eq``, ``ne``, ``like`` (the input contains the reference), ``ilike`` (ignoring case)."""

    type: Literal["string_check"]
    input: Template
    reference: Template
    operation: Literal["eq", "ne", "like", "ilike"]

    async def score(self, sample: Sample, models: Models) -> Grade:
        text, reference = render(self.input, sample), render(self.reference, sample)
        return Grade(float(_OPERATIONS[self.operation](text, reference)))
