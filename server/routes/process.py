"""What load balancers, container runtimes and Prometheus ask: is it alive, does it answer, how is it doing."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from server.routes.rooms import HouseOf
from server.supervisor import State

router = APIRouter(tags=["process"])


@router.get("/health")
async def health() -> dict[str, str]:
    """Answer as long as the process lives, also while the engine does not."""
    return {"status": "alive"}


@router.get("/ready")
async def ready(house: HouseOf) -> JSONResponse:
    """200 while inference is answered, else 503 with the engine's state."""
    is_ready = house.supervisor.is_ready and not house.admission.is_draining
    state = "draining" if house.admission.is_draining else house.supervisor.state
    if not is_ready and state is State.READY:
        state = State.REBUILDING  # it died within the last watch interval
    return JSONResponse({"status": state}, 200 if is_ready else 503, {} if is_ready else {"Retry-After": "1"})


@router.get("/metrics")
async def metrics(house: HouseOf) -> Response:
    """Our series and vLLM's, for Prometheus."""
    return Response(house.metrics.page(), media_type=CONTENT_TYPE_LATEST)


@router.get("/v1/residents", tags=["versions"])
async def residents(house: HouseOf) -> dict[str, object]:
    """List what the engine holds ready, least recently used first."""
    views = house.supervisor.serving().residency.views()
    data = [{"id": view.version.name, "state": view.state, "leases": view.leases} for view in views]
    return {"object": "list", "data": data, "has_more": False}
