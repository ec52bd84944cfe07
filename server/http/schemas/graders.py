"""OpenAI's graders in requests and responses: https://platform.openai.com/docs/api-reference/graders"""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field

from server.http.schemas.body import Body, Json
from server.http.schemas.response import ResponseObject
from trainer.graders.grader import Grade, Grader, GradingError


class ValidateBody(Body):
    """Body of a validation."""

    grader: Json = Field(
        examples=[
            {
                "type": "string_check",
                "name": "exact",
                "input": "{{sample.output_text}}",
                "reference": "{{item.answer}}",
                "operation": "eq",
            }
        ]
    )


class GradeBody(ValidateBody):
    """Body of a trial: an answer, and the item of the data set that it answers."""

    model_sample: str
    item: Json | None = None


class ValidatedGrader(ResponseObject):
    """The definition of a valid grader, as it was sent."""

    grader: Json


class GradeErrors(ResponseObject):
    """OpenAI's fourteen reasons for a reward of 0; those of graders that run code do not occur."""

    model_grader_server_error_details: str | None = None
    python_grader_runtime_error: bool = False
    python_grader_runtime_error_details: str | None = None
    python_grader_server_error: bool = False
    python_grader_server_error_type: str | None = None
    truncated_observation_error: bool = False
    unresponsive_reward_error: bool = False
    formula_parse_error: bool = False
    invalid_variable_error: bool = False
    sample_parse_error: bool = False
    model_grader_parse_error: bool = False
    model_grader_refusal_error: bool = False
    model_grader_server_error: bool = False
    other_error: bool = False


class GradeMetadata(ResponseObject):
    """Of a grade. ``message`` is not OpenAI's: the reasons for a reward of 0 in words."""

    name: str
    type: str
    errors: GradeErrors
    execution_time: float = Field(description="In seconds.")
    scores: dict[str, Any]
    sampled_model_name: str | None
    token_usage: int | None
    message: str | None


class GraderUsage(ResponseObject):
    """The tokens that a model took to grade."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    total_tokens: int


class GradeObject(ResponseObject):
    """The grade of one answer."""

    reward: float
    sub_rewards: dict[str, float]
    metadata: GradeMetadata
    model_grader_token_usage_per_model: dict[str, GraderUsage]

    @classmethod
    def from_grade(cls, grader: Grader, grade: Grade, took_s: float) -> Self:
        """Return the response that shows ``grade``, which ``grader`` gave in ``took_s`` seconds."""
        usage = {model: GraderUsage.model_validate(each) for model, each in grade.usage.items()}
        metadata = GradeMetadata(
            name=grader.name,
            type=grader.type,
            errors=GradeErrors.model_validate(
                dict.fromkeys(grade.errors, True)
                | {"model_grader_server_error_details": grade.errors.get(GradingError.MODEL_SERVER)}
            ),
            execution_time=took_s,
            scores=dict(grade.scores),
            sampled_model_name=next(iter(usage)) if len(usage) == 1 else None,
            token_usage=sum(each.total_tokens for each in usage.values()) if usage else None,
            message="; ".join(grade.errors.values()) or None,
        )
        sub_rewards = dict(grade.sub_rewards)
        return cls(
            reward=grade.reward, sub_rewards=sub_rewards, metadata=metadata, model_grader_token_usage_per_model=usage
        )
