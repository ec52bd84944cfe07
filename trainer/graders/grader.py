"""What every grader is: a definition as OpenAI's clients write it, and the act of grading by it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from trainer.graders.grade import Grade, Ungraded
from trainer.graders.models import Models
from trainer.graders.sample import Sample


class Definition(BaseModel):
    """A part of a grader's definition. A key that is not known is an error, and so is a number written as text."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Grader(Definition, ABC):
    """Scores one answer. Each kind is a subclass with a ``type``."""

    name: Annotated[str, Field(max_length=256)] = ""
    type: str
    pass_threshold: float | None = None
    """From evals: the least reward that passes. ``scores`` says then whether it did."""

    def check(self, models: Models, where: str) -> None:
        """Make sure that what the grader needs beside itself is there. ``where``: its path in the request.

        Raises:
            InvalidField: it is not; the message says what would do instead.
            PatchbayError: nobody can know at present.
        """

    async def grade(self, sample: Sample, models: Models) -> Grade:
        """Grade ``sample``; whatever keeps a grader from it becomes a reward of 0 that says why."""
        try:
            grade = await self.score(sample, models)
        except Ungraded as why:
            return Grade(0.0, troubles={why.trouble: str(why)})
        if self.pass_threshold is None:
            return grade
        scores = {**grade.scores, "passed": grade.reward >= self.pass_threshold}
        return Grade(grade.reward, scores, grade.sub_rewards, grade.troubles, grade.usage)

    @abstractmethod
    async def score(self, sample: Sample, models: Models) -> Grade:
        """Grade ``sample``.

        Raises:
            Ungraded: there is no score.
        """
