"""What the engine holds ready."""

from __future__ import annotations

from fastapi import APIRouter

from server.http.schemas.adapters import Json, list_json
from server.routes.inputs import StateOf

router = APIRouter(prefix="/v1/residents", tags=["residents"])


@router.get("")
async def residents(state: StateOf) -> Json:
    """List the residents, least recently used first, with how many requests hold each."""
    views = state.engine.serving().residency.views()
    data = [
        {
            "object": "resident",
            "id": view.version.name,
            "state": view.state,
            "leases": view.leases,
            "bytes": view.version.size_bytes,
        }
        for view in views
    ]
    return list_json(data, has_more=False)
