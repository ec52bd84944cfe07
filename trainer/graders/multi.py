"""``multi``: several graders, and a formula over their rewards."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Final, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from trainer.graders import formula
from trainer.graders.grade import Grade, Trouble
from trainer.graders.grader import Grader
from trainer.graders.label_model import LabelModelGrader
from trainer.graders.models import Models, Usage
from trainer.graders.python import PythonGrader
from trainer.graders.sample import Sample
from trainer.graders.score_model import ScoreModelGrader
from trainer.graders.string_check import StringCheckGrader
from trainer.graders.text_similarity import TextSimilarityGrader

MAX_GRADERS: Final = 32

Single = StringCheckGrader | TextSimilarityGrader | ScoreModelGrader | LabelModelGrader | PythonGrader
"""What a multi combines; it combines no other multi."""

Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]
"""What a formula can name."""


class MultiGrader(Grader):
    """A grader that comes to no score counts as 0, and its trouble shows; ``sub_rewards`` has each reward."""

    type: Literal["multi"]
    graders: Annotated[
        dict[Variable, Annotated[Single, Field(discriminator="type")]], Field(min_length=1, max_length=MAX_GRADERS)
    ]
    calculate_output: str

    @field_validator("calculate_output")
    @classmethod
    def _is_arithmetic(cls, text: str, others: ValidationInfo) -> str:
        if (graders := others.data.get("graders")) is not None:
            try:
                formula.check(text, graders)
            except ValueError as why:
                raise PydanticCustomError("formula", "Input should be a formula: {why}", {"why": str(why)}) from None
        return text

    def check(self, models: Models, where: str) -> None:
        """See ``Grader.check``."""
        for name, grader in self.graders.items():
            grader.check(models, f"{where}.graders.{name}")

    async def score(self, sample: Sample, models: Models) -> Grade:
        """See ``Grader.score``. All are asked at once."""
        grades = await asyncio.gather(*(grader.grade(sample, models) for grader in self.graders.values()))
        by_name = dict(zip(self.graders, grades, strict=True))
        rewards = {name: grade.reward for name, grade in by_name.items()}
        troubles = {what: f"{name}: {why}" for name, grade in by_name.items() for what, why in grade.troubles.items()}
        reward = 0.0
        try:
            reward = formula.evaluate(self.calculate_output, rewards)
        except (ArithmeticError, ValueError) as why:
            troubles[Trouble.FORMULA] = f"{self.calculate_output}: {why}"
        scores = {name: dict(grade.scores) for name, grade in by_name.items() if grade.scores}
        return Grade(reward, scores, rewards, troubles, _summed(grades))


def _summed(grades: Sequence[Grade]) -> dict[str, Usage]:
    usage: dict[str, Usage] = {}
    for grade in grades:
        for model, spent in grade.usage.items():
            usage[model] = usage.get(model, Usage()) + spent
    return usage
