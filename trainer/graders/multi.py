"""``multi``: several graders and a formula over their rewards."""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Final, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from trainer.graders import formula
from trainer.graders.grader import Grade, Grader, GradingError, Sample
from trainer.graders.json_schema import JsonSchemaGrader
from trainer.graders.model_graders import LabelModelGrader, ScoreModelGrader
from trainer.graders.models import Models, Usage
from trainer.graders.python_grader import PythonGrader
from trainer.graders.reward_model import RewardModelGrader
from trainer.graders.string_check import StringCheckGrader
from trainer.graders.text_similarity import TextSimilarityGrader

MAX_GRADERS: Final = 32

Single = (
    StringCheckGrader
    | TextSimilarityGrader
    | JsonSchemaGrader
    | PythonGrader
    | ScoreModelGrader
    | LabelModelGrader
    | RewardModelGrader
)
"""The graders that ``multi`` combines; it is not nested."""

Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]
"""A name that a formula can use."""


class MultiGrader(Grader):
    """Combines the rewards of ``graders``; one without a score counts as 0, and its error is reported."""

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

    @property
    def asks_models(self) -> bool:
        return any(grader.asks_models for grader in self.graders.values())

    async def check(self, models: Models, where: str) -> None:
        for name, grader in self.graders.items():
            await grader.check(models, f"{where}.graders.{name}")

    async def score(self, sample: Sample, models: Models) -> Grade:
        """All graders run concurrently."""
        grades = await asyncio.gather(*(grader.grade(sample, models) for grader in self.graders.values()))
        by_name = dict(zip(self.graders, grades, strict=True))
        rewards = {name: grade.reward for name, grade in by_name.items()}
        errors = {
            error: f"{name}: {message}" for name, grade in by_name.items() for error, message in grade.errors.items()
        }
        reward = 0.0
        try:
            reward = formula.evaluate(self.calculate_output, rewards)
        except (ArithmeticError, ValueError) as why:
            errors[GradingError.FORMULA] = f"{self.calculate_output}: {why}"
        scores = {name: dict(grade.scores) for name, grade in by_name.items() if grade.scores}
        return Grade(reward, scores, rewards, errors, _summed(grades))


def _summed(grades: Sequence[Grade]) -> dict[str, Usage]:
    usage: dict[str, Usage] = {}
    for grade in grades:
        for model, spent in grade.usage.items():
            usage[model] = usage.get(model, Usage()) + spent
    return usage
