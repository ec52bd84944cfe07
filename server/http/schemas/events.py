"""OpenAI's events of a fine-tuning job in responses."""

from __future__ import annotations

from typing import Any, Literal

from server.http.schemas.response import ResponseObject, UnixTime
from trainer.jobs.events import Kind, Level


class EventObject(ResponseObject):
    """An event of a job; ``data`` of a metrics event has the numbers by name."""

    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    id: str
    created_at: UnixTime
    level: Level
    type: Kind
    message: str
    data: dict[str, Any] | None
