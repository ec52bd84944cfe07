"""The base of all graders: a definition in OpenAI's form, the sample that it grades, and the grade."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from adapters import strict_json
from trainer.graders.models import Models, Usage


@dataclass(slots=True)
class FilledCharacters:
    """How much the templates of a grader were filled with so far; they share one bound."""

    count: int = 0


@dataclass(frozen=True)
class Sample:
    """A model's answer and the item of the data set; templates read ``{{sample.…}}`` and ``{{item.…}}``."""

    output_text: str
    item: Mapping[str, Any] = field(default_factory=dict)
    filled: FilledCharacters = field(default_factory=FilledCharacters, compare=False)

    @cached_property
    def output_json(self) -> Any:
        """The answer parsed as JSON, once.

        Raises:
            ValueError: the answer is not JSON.
        """
        return strict_json.parse(self.output_text.encode())


class GradingError(StrEnum):
    """Reasons for a grade without a score; the values are OpenAI's names."""

    FORMULA = "formula_parse_error"
    """The formula has no finite value."""
    VARIABLE = "invalid_variable_error"
    """A template names a variable that does not exist."""
    SAMPLE = "sample_parse_error"
    """A template reads JSON from an answer that is not JSON."""
    MODEL_PARSE = "model_grader_parse_error"
    """The model's answer holds no score."""
    MODEL_REFUSAL = "model_grader_refusal_error"
    MODEL_SERVER = "model_grader_server_error"
    PYTHON_RUNTIME = "python_grader_runtime_error"
    """The code of a python grader raised an error, or returned no finite number."""
    PYTHON_SERVER = "python_grader_server_error"
    """The process of a python grader died: it used too much memory, or ended itself."""
    UNRESPONSIVE = "unresponsive_reward_error"
    """A python grader took too long."""
    OTHER = "other_error"
    """A text is too long."""


class Ungraded(Exception):
    """A grader has no score; ``Grader.grade`` turns it into a reward of 0 with the error."""

    def __init__(self, error: GradingError, message: str) -> None:
        super().__init__(message)
        self.error = error


@dataclass(frozen=True, slots=True)
class Grade:
    """The result of a grader."""

    reward: float
    scores: Mapping[str, Any] = field(default_factory=dict)
    """The values behind the reward: a model's result or label, or the scores of each sub-grader."""
    sub_rewards: Mapping[str, float] = field(default_factory=dict)
    """``multi``: the reward of each sub-grader by name."""
    errors: Mapping[GradingError, str] = field(default_factory=dict)
    """Messages by error; a grader with an error of its own has the reward 0."""
    usage: Mapping[str, Usage] = field(default_factory=dict)
    """Tokens by model."""


class Definition(BaseModel):
    """A part of a grader's definition. Unknown keys are errors, and so are numbers written as text."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Grader(Definition, ABC):
    """Scores one answer. Each of OpenAI's kinds is a subclass with its ``type``."""

    name: Annotated[str, Field(max_length=256)] = ""
    type: str
    pass_threshold: float | None = None
    """From OpenAI's evals: the least reward that passes; adds ``passed`` to the scores."""

    @property
    def asks_models(self) -> bool:
        """Whether it sends requests to models, in the name of a caller."""
        return False

    async def check(self, models: Models, where: str) -> None:
        """Check that what the grader needs is available. ``where``: the grader's path in the request.

        Raises:
            InvalidField: a model is missing or unsuitable, or a field costs too much; the message names alternatives.
            PatchbayError: it cannot be checked at present.
        """

    async def grade(self, sample: Sample, models: Models) -> Grade:
        """Return the grade of ``sample``; without a score its reward is 0 and ``errors`` holds the reason."""
        try:
            grade = await self.score(sample, models)
        except Ungraded as why:
            return Grade(0.0, errors={why.error: str(why)})
        if self.pass_threshold is None:
            return grade
        return replace(grade, scores={**grade.scores, "passed": grade.reward >= self.pass_threshold})

    @abstractmethod
    async def score(self, sample: Sample, models: Models) -> Grade:
        """Return the grade of ``sample``.

        Raises:
            Ungraded: there is no score.
        """
