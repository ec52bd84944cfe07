"""OpenAI's checkpoints of a fine-tuning job, and the permissions on them, in responses."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from server.http.schemas.response import ResponseObject, UnixTime


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
