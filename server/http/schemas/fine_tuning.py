"""OpenAI's fine-tuning: files, jobs, events and checkpoints in responses; graders in requests and responses.

https://platform.openai.com/docs/api-reference/{files,fine-tuning,graders}
"""

from typing import Any, Final, Literal, Self

from pydantic import ConfigDict, Field

from server.http.schemas.base import Body, Json, ResponseObject, UnixTime
from trainer.files.file import Purpose
from trainer.graders.grader import Grade, Grader, GradingError
from trainer.jobs.events import Kind, Level
from trainer.jobs.job import Failure, Job
from trainer.jobs.state import JobState
from trainer.policy_sampling import PolicyAnswer

_GRADER: Final = {
    "type": "string_check",
    "name": "exact",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
    "operation": "eq",
}


class FileObject(ResponseObject):
    """A file without its bytes."""

    object: Literal["file"] = "file"
    id: str
    bytes: int = Field(validation_alias="size_bytes")
    created_at: UnixTime
    expires_at: UnixTime | None
    filename: str
    purpose: Purpose
    status: Literal["processed"] = "processed"
    status_details: None = None


class JobObject(ResponseObject):
    """A job. The fields of its creation that OpenAI does not have, such as ``rank``, stand beside OpenAI's."""

    model_config = ConfigDict(extra="allow")

    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    id: str
    created_at: UnixTime
    estimated_finish: UnixTime | None
    finished_at: UnixTime | None
    status: JobState = Field(validation_alias="state")
    error: Failure | None
    model: str
    fine_tuned_model: str | None
    organization_id: str
    training_file: str
    validation_file: str | None
    result_files: list[str]
    trained_tokens: int | None
    verdict: dict[str, Any] | None = Field(
        description="Ours: of a job with a validation file, once its result is published. `result` is `better`, "
        "`no_gain` or `worse`, or null where there can be no verdict; `message` has the numbers or the reason."
    )
    method: dict[str, Any]
    hyperparameters: dict[str, Any]
    seed: int
    suffix: str | None
    integrations: list[dict[str, Any]] | None
    metadata: dict[str, str] | None

    @classmethod
    def from_job(cls, job: Job) -> Self:
        return cls.model_validate(job).model_copy(update=job.extension)


class EventObject(ResponseObject):
    """An event of a job; ``data`` of a metrics event has the numbers by name."""

    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    id: str
    created_at: UnixTime
    level: Level
    type: Kind
    message: str
    data: dict[str, Any] | None


class CheckpointObject(ResponseObject):
    """A checkpoint of a job; its model can be called."""

    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    id: str
    created_at: UnixTime
    fine_tuning_job_id: str = Field(validation_alias="job_id")
    fine_tuned_model_checkpoint: str = Field(validation_alias="model")
    step_number: int
    metrics: dict[str, int | float | None]


class PolicyAnswersObject(ResponseObject):
    """Answers of a policy to each prompt of a request, in its order, with their rewards."""

    answers: list[list[PolicyAnswer]]


class PermissionObject(ResponseObject):
    """A permission on a checkpoint. ``enforced`` is not OpenAI's: shares of adapters are what counts."""

    object: Literal["checkpoint.permission"] = "checkpoint.permission"
    id: str
    created_at: UnixTime
    project_id: str
    enforced: Literal[False] = False


class PublishedModel(ResponseObject):
    """The name under which a job's result or checkpoint was published."""

    object: Literal["model"] = "model"
    id: str


class ValidateBody(Body):
    """Body of a validation."""

    grader: Json = Field(examples=[_GRADER])


class GradeBody(ValidateBody):
    """Body of a trial: an answer, and the item of the data set that it answers."""

    model_sample: str
    item: Json | None = None


class ValidatedGrader(ResponseObject):
    """The definition of a valid grader, as it was sent."""

    grader: Json


class GradeErrors(ResponseObject):
    """OpenAI's fourteen reasons for a reward of 0; ``truncated_observation_error`` does not occur."""

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

    @classmethod
    def of(cls, grade: Grade) -> Self:
        details = {
            "model_grader_server_error_details": grade.errors.get(GradingError.MODEL_SERVER),
            "python_grader_runtime_error_details": grade.errors.get(GradingError.PYTHON_RUNTIME),
            "python_grader_server_error_type": grade.errors.get(GradingError.PYTHON_SERVER),
        }
        return cls.model_validate(dict.fromkeys(grade.errors, True) | details)


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
        usage = grade.usage
        return cls(
            reward=grade.reward,
            sub_rewards=grade.sub_rewards,
            metadata=GradeMetadata(
                name=grader.name,
                type=grader.type,
                errors=GradeErrors.of(grade),
                execution_time=took_s,
                scores=grade.scores,
                sampled_model_name=next(iter(usage)) if len(usage) == 1 else None,
                token_usage=sum(each.total_tokens for each in usage.values()) if usage else None,
                message="; ".join(grade.errors.values()) or None,
            ),
            model_grader_token_usage_per_model=usage,
        )
