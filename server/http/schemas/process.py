"""Liveness, readiness and residents in responses."""

from __future__ import annotations

from typing import Literal

from pydantic import AliasPath, Field

from server.current_engine import EngineState
from server.http.schemas.response import ResponseObject
from server.residency.entry import ResidentState


class HealthObject(ResponseObject):
    """The liveness of the process."""

    status: Literal["alive"] = "alive"


class ReadinessObject(ResponseObject):
    """The engine's state, or ``draining`` while the process shuts down; inference is answered in ``ready`` alone."""

    status: EngineState | Literal["draining"]


class ResidentObject(ResponseObject):
    """An ``Entry`` of the residency; ``leases`` counts the requests that use the version."""

    object: Literal["resident"] = "resident"
    id: str = Field(validation_alias=AliasPath("version", "name"))
    state: ResidentState
    leases: int
    bytes: int = Field(validation_alias=AliasPath("version", "size_bytes"))
