"""``score_model`` and ``label_model``: a model grades, and its answer has a fixed form.

The form is OpenAI's: ``{"steps": [{"description", "conclusion"}, …], "result": …}``. The steps come first, so that the
result follows from them. A regular expression enforces it instead of a JSON schema: a schema allows any whitespace
between tokens, and small models write whitespace until the context is full. Every part is bounded for the same reason.
"""

import json
import re
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from adapters import strict_json
from adapters.errors import NotFound, WrongBase
from trainer.errors import InvalidField
from trainer.graders.grader import Definition, Grade, Grader, GradingError, Sample, Ungraded
from trainer.graders.message import Message
from trainer.graders.models import GraderAnswer, Models, NotAnswered, Question

MAX_STEPS: Final = 4
MAX_STEP_CHARACTERS: Final = 200
"""Of a description, and of a conclusion."""
MAX_TOKENS: Final = 2048
"""Default length of an answer."""

_TEXT: Final = rf'"([^"\\\x00-\x1f]|\\["\\/bfnrt]){{0,{MAX_STEP_CHARACTERS}}}"'
_STEP: Final = rf'\{{"description": {_TEXT}, "conclusion": {_TEXT}\}}'
_STEPS: Final = rf"\[({_STEP}(, {_STEP}){{0,{MAX_STEPS - 1}}})?\]"


class ModelGrader(Grader):
    """Sends messages about the sample to ``model``; a subclass defines the results and their rewards."""

    model: Annotated[str, Field(min_length=1)]
    """Any model reference that the server serves."""
    input: Annotated[list[Message], Field(min_length=1, max_length=64)]

    @property
    def sampling(self) -> Mapping[str, Any]:
        """Sampling parameters, in the names of ``/v1/chat/completions``."""
        return {}

    @property
    @abstractmethod
    def result_pattern(self) -> str:
        """Regular expression of a result, as JSON."""

    @abstractmethod
    def grade_of(self, result: Any) -> Grade:
        """Return the grade for ``result``.

        Raises:
            Ungraded: it is no result; engines without structured output may answer with one.
        """

    @property
    def asks_models(self) -> bool:
        return True

    async def check(self, models: Models, where: str) -> None:
        try:
            models.check(self.model)
        except (NotFound, WrongBase) as unknown:
            raise InvalidField(unknown.message, param=f"{where}.model") from unknown

    async def score(self, sample: Sample, models: Models) -> Grade:
        """The tokens of an answer without a score are counted too."""
        messages = [message.rendered(sample) for message in self.input]
        pattern = rf'\{{"steps": {_STEPS}, "result": ({self.result_pattern})\}}'
        sampling = {"max_completion_tokens": MAX_TOKENS, **self.sampling}
        try:
            answer = await models.ask(Question(self.model, messages, pattern, sampling))
        except NotAnswered as refused:
            raise Ungraded(GradingError.MODEL_SERVER, str(refused)) from refused
        try:
            grade = self.grade_of(_result(answer))
        except Ungraded as why:
            grade = Grade(0.0, errors={why.error: str(why)})
        return replace(grade, usage={answer.model: answer.usage})


def _result(answer: GraderAnswer) -> Any:
    if answer.refusal is not None:
        raise Ungraded(GradingError.MODEL_REFUSAL, answer.refusal)
    try:
        return strict_json.parse(answer.text.encode())["result"]
    except (ValueError, LookupError, TypeError):
        raise _no_result(answer.text) from None


def _no_result(answer: object) -> Ungraded:
    return Ungraded(GradingError.MODEL_PARSE, f"the model's answer holds no result as requested: {answer!r:.200}")


class SamplingParams(Definition):
    """OpenAI's ``sampling_params`` of a grader."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    max_completions_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = Field(
        None, serialization_alias="max_completion_tokens"
    )
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None


def _ascending(bounds: list[float]) -> list[float]:
    if bounds[0] >= bounds[1]:
        raise PydanticCustomError("range", "Input should be two numbers, the smaller one first")
    return bounds


class ScoreModelGrader(ModelGrader):
    """``score_model``: the model writes a number. The reward is the number clamped to ``range``, as OpenAI does."""

    type: Literal["score_model"]
    range: Annotated[list[float], Field(min_length=2, max_length=2), AfterValidator(_ascending)] = Field([0.0, 1.0])
    sampling_params: SamplingParams | None = None

    @property
    def sampling(self) -> Mapping[str, Any]:
        return {} if self.sampling_params is None else self.sampling_params.model_dump(exclude_none=True, by_alias=True)

    @property
    def result_pattern(self) -> str:
        """As many digits as the bounds have, a sign if the low one is negative."""
        low, high = self.range
        digits = len(str(int(max(abs(low), abs(high)))))
        return rf"{'-?' if low < 0 else ''}(0|[1-9][0-9]{{0,{digits - 1}}})(\.[0-9]{{1,6}})?"

    def grade_of(self, result: Any) -> Grade:
        if isinstance(result, bool) or not isinstance(result, int | float):
            raise _no_result(result)
        low, high = self.range
        return Grade(float(min(high, max(low, result))), {"result": result})


Labels = Annotated[list[Annotated[str, Field(min_length=1, max_length=256)]], Field(min_length=1, max_length=256)]


class LabelModelGrader(ModelGrader):
    """``label_model``: the model chooses a label; reward 1 if the label is a passing one, else 0."""

    type: Literal["label_model"]
    labels: Labels
    passing_labels: Labels

    @field_validator("passing_labels")
    @classmethod
    def _are_labels(cls, passing: list[str], others: ValidationInfo) -> list[str]:
        for label in passing:
            if label not in others.data.get("labels", passing):
                context = {"label": label}
                raise PydanticCustomError("labels", "Input should be some of the labels; '{label}' is not one", context)
        return passing

    @property
    def result_pattern(self) -> str:
        return "|".join(re.escape(json.dumps(label, ensure_ascii=False)) for label in self.labels)

    def grade_of(self, result: Any) -> Grade:
        if result not in self.labels:
            raise _no_result(result)
        return Grade(float(result in self.passing_labels), {"label": result})
