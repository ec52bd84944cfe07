"""OpenAI's fine-tuning jobs in responses: https://platform.openai.com/docs/api-reference/fine-tuning/object"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import ConfigDict, Field

from server.http.schemas.response import ResponseObject, UnixTime
from trainer.jobs.job import Job
from trainer.jobs.state import JobState


class JobErrorObject(ResponseObject):
    """Why a job failed; ``param`` names the field at fault, where there is one."""

    code: str
    message: str
    param: str | None


class JobObject(ResponseObject):
    """A job. The fields of its creation that OpenAI does not have, such as ``rank``, stand beside OpenAI's."""

    model_config = ConfigDict(extra="allow")

    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    id: str
    created_at: UnixTime
    estimated_finish: UnixTime | None
    finished_at: UnixTime | None
    status: JobState = Field(validation_alias="state")
    error: JobErrorObject | None
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
