"""``score_model``: a model says a number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from trainer.graders.grade import Grade
from trainer.graders.grader import Definition
from trainer.graders.model_grader import ModelGrader, unreadable


class SamplingParams(Definition):
    """How the model samples, in OpenAI's words for graders."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    max_completions_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None

    def for_chat(self) -> Mapping[str, Any]:
        """Return what was said, in the words of ``/v1/chat/completions``."""
        said = self.model_dump(exclude_none=True)
        return {"max_completion_tokens" if name == "max_completions_tokens" else name: said[name] for name in said}


def _ascending(bounds: list[float]) -> list[float]:
    if bounds[0] >= bounds[1]:
        raise PydanticCustomError("range", "Input should be two numbers, the smaller one first")
    return bounds


class ScoreModelGrader(ModelGrader):
    """The number is held to ``range``, as OpenAI does; ``scores`` has it as it was said."""

    type: Literal["score_model"]
    range: Annotated[list[float], Field(min_length=2, max_length=2), AfterValidator(_ascending)] = Field([0.0, 1.0])
    sampling_params: SamplingParams | None = None

    @property
    def sampling(self) -> Mapping[str, Any]:
        """See ``ModelGrader.sampling``."""
        return {} if self.sampling_params is None else self.sampling_params.for_chat()

    @property
    def result_form(self) -> str:
        """See ``ModelGrader.result_form``: no more digits than the range has, and a sign where it has one."""
        low, high = self.range
        digits = len(str(int(max(abs(low), abs(high)))))
        return rf"{'-?' if low < 0 else ''}(0|[1-9][0-9]{{0,{digits - 1}}})(\.[0-9]{{1,6}})?"

    def worth(self, result: Any) -> Grade:
        """See ``ModelGrader.worth``."""
        if isinstance(result, bool) or not isinstance(result, int | float):
            raise unreadable(result)
        low, high = self.range
        return Grade(float(min(high, max(low, result))), {"result": result})
