"""The JSON of files and fine-tuning jobs: OpenAI's fields, and a job's own keys of ours beside them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TypeVar

from server.http.schemas.adapters import Json, list_json
from trainer.files.file import File
from trainer.jobs.checkpoints import Checkpoint, Permission
from trainer.jobs.events import Event
from trainer.jobs.job import Job
from trainer.page import Page

T = TypeVar("T")


def file_json(file: File) -> Json:
    """Return a file."""
    return {
        "object": "file",
        "id": file.id,
        "bytes": file.size_bytes,
        "created_at": _seconds(file.created_at),
        "expires_at": _seconds(file.expires_at),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


def job_json(job: Job) -> Json:
    """Return a job; what its creator said in keys of ours stands beside OpenAI's."""
    error = job.error
    return {
        **job.extension,
        "object": "fine_tuning.job",
        "id": job.id,
        "created_at": _seconds(job.created_at),
        "estimated_finish": _seconds(job.estimated_finish),
        "finished_at": _seconds(job.finished_at),
        "status": job.state,
        "error": None if error is None else {"code": error.code, "message": error.message, "param": error.param},
        "model": job.model,
        "fine_tuned_model": job.fine_tuned_model,
        "organization_id": job.organization_id,
        "training_file": job.training_file,
        "validation_file": job.validation_file,
        "result_files": list(job.result_files),
        "trained_tokens": job.trained_tokens,
        "method": job.method,
        "hyperparameters": job.hyperparameters,
        "seed": job.seed,
        "suffix": job.suffix,
        "integrations": job.integrations,
        "metadata": job.metadata,
    }


def event_json(event: Event) -> Json:
    """Return one event of a job."""
    return {
        "object": "fine_tuning.job.event",
        "id": event.id,
        "created_at": _seconds(event.created_at),
        "level": event.level,
        "type": event.type,
        "message": event.message,
        "data": event.data,
    }


def checkpoint_json(checkpoint: Checkpoint) -> Json:
    """Return one checkpoint of a job."""
    return {
        "object": "fine_tuning.job.checkpoint",
        "id": checkpoint.id,
        "created_at": _seconds(checkpoint.created_at),
        "fine_tuning_job_id": checkpoint.job_id,
        "fine_tuned_model_checkpoint": checkpoint.model,
        "step_number": checkpoint.step_number,
        "metrics": checkpoint.metrics,
    }


def permission_json(permission: Permission) -> Json:
    """Return one permission on a checkpoint. ``enforced`` is ours: this server has no projects to enforce it for."""
    return {
        "object": "checkpoint.permission",
        "id": permission.id,
        "created_at": _seconds(permission.created_at),
        "project_id": permission.project_id,
        "enforced": False,
    }


def page_json(page: Page[T], shape: Callable[[T], Json]) -> Json:
    """Return a page, each entry in its ``shape``."""
    return list_json([shape(entry) for entry in page.data], has_more=page.has_more)


def _seconds(time: datetime | None) -> int | None:
    return None if time is None else int(time.timestamp())
