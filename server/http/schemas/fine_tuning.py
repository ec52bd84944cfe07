"""OpenAI's fine-tuning jobs, their events and checkpoints in responses.

https://platform.openai.com/docs/api-reference/fine-tuning/object
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import ConfigDict, Field

from server.http.schemas.response import ResponseObject, UnixTime
from trainer.jobs.events import Kind, Level
from trainer.jobs.job import Failure, Job
from trainer.jobs.state import JobState


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
    method: dict[str, Any]
    hyperparameters: dict[str, Any]
    seed: int
    suffix: str | None
    integrations: list[dict[str, Any]] | None
    metadata: dict[str, str] | None

    @classmethod
    def from_job(cls, job: Job) -> Self:
        """Return the response that shows ``job``."""
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


class PermissionObject(ResponseObject):
    """A permission on a checkpoint. ``enforced`` is not OpenAI's: this server has no projects to enforce it for."""

    object: Literal["checkpoint.permission"] = "checkpoint.permission"
    id: str
    created_at: UnixTime
    project_id: str
    enforced: Literal[False] = False


class PublishedModel(ResponseObject):
    """The name under which a job's result or checkpoint was published."""

    object: Literal["model"] = "model"
    id: str
