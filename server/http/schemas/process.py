"""What the process serves, in responses: liveness, readiness, residents and OpenAI's models.

https://platform.openai.com/docs/api-reference/models
"""

from typing import Literal

from pydantic import AliasPath, Field

from server.current_engine import EngineState
from server.http.schemas.base import ResponseObject, UnixTime
from server.residency.entry import ResidentState


class HealthObject(ResponseObject):
    """The liveness of the process."""

    status: Literal["alive"] = "alive"


class ReadinessObject(ResponseObject):
    """The engine's state; ``draining`` while the process shuts down, ``silent`` while the engine answers no heartbeat.

    Inference is answered in ``ready`` alone.
    """

    status: EngineState | Literal["draining", "silent"]


class EngineVersionObject(ResponseObject):
    """The version of vLLM, in the shape of vLLM's own route."""

    version: str


class ResidentObject(ResponseObject):
    """An ``Entry`` of the residency; ``leases`` counts the requests that use the version."""

    object: Literal["resident"] = "resident"
    id: str = Field(validation_alias=AliasPath("version", "name"))
    state: ResidentState
    leases: int
    bytes: int = Field(validation_alias=AliasPath("version", "size_bytes"))


class ModelObject(ResponseObject):
    """The base model, or an adapter. ``root`` names the version that answers; ``parent`` is the base model.

    ``max_model_len``: tokens that prompt and answer may have together; null until the first engine has started.
    """

    id: str
    object: Literal["model"] = "model"
    created: UnixTime
    owned_by: Literal["patchbay"] = "patchbay"
    root: str | None
    parent: str | None
    max_model_len: int | None = None


class VersionModel(ModelObject):
    """A reference that means a version, with the version's digest."""

    digest: str


class ModelList(ResponseObject):
    """All models on one page."""

    object: Literal["list"] = "list"
    data: list[VersionModel | ModelObject]
