"""What one running server does, in a response: the engine, what is loaded, what waits, what trains."""

from typing import Literal

from server.current_engine import EngineState
from server.http.schemas.base import ResponseObject, UnixTime
from trainer.jobs.state import JobState


class UnfinishedJob(ResponseObject):
    """A fine-tuning job that has not ended."""

    id: str
    status: JobState
    adapter: str


class StatusObject(ResponseObject):
    """The state of the server. What belongs to an engine is null or empty while none runs."""

    object: Literal["status"] = "status"
    version: str
    started_at: UnixTime
    engine: EngineState | Literal["draining"]
    model: str | None
    """The base model's name."""
    base_fingerprint: str | None
    """Of the base model's shapes: adapters are made for them."""
    adapters: int
    residents: list[str]
    """Versions, least recently used first."""
    max_residents: int
    slots: int | None
    active_adapters: int | None
    """Adapters that have generations in the engine, each in a slot."""
    in_flight: int
    """Inference requests that are answered or wait."""
    waiting: int | None
    """Generations that wait for a turn."""
    jobs: list[UnfinishedJob]
    """Oldest first."""
