"""What load balancers, container runtimes and Prometheus ask: is it alive, does it answer, how is it doing."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from server.current_engine import EngineState
from server.routes.inputs import StateOf

router = APIRouter(tags=["process"])


@router.get("/health")
async def health() -> dict[str, str]:
    """Answer as long as the process lives, also while the engine does not."""
    return {"status": "alive"}


@router.get("/ready")
async def ready(state: StateOf) -> JSONResponse:
    """200 while inference is answered, else 503 with the engine's state."""
    status = "draining" if state.admission.is_draining else state.engine.state
    if status is EngineState.READY:
        return JSONResponse({"status": status})
    return JSONResponse({"status": status}, 503, {"Retry-After": "1"})


@router.get("/metrics")
async def metrics(state: StateOf) -> Response:
    """Our series and vLLM's, for Prometheus."""
    page = await asyncio.to_thread(state.metrics.page)  # thousands of lines: no stream should wait for them
    return Response(page, media_type=CONTENT_TYPE_LATEST)
