"""Adapters: listed, shown, deleted."""

from __future__ import annotations

from fastapi import APIRouter

from server.http.schemas.adapters import Json, adapter_json, list_json
from server.operations.deletion import delete_adapter
from server.routes.inputs import DEFAULT_PAGE, PageLimit, StateOf

router = APIRouter(prefix="/v1/adapters", tags=["adapters"])


@router.get("")
async def list_adapters(state: StateOf, after: str | None = None, limit: PageLimit = DEFAULT_PAGE) -> Json:
    """List adapters by name; ``after`` is the last name of the page before."""
    adapters, has_more = state.registry.catalog.adapters(after=after, limit=limit)
    return list_json([adapter_json(adapter) for adapter in adapters], has_more=has_more)


@router.get("/{name}")
async def show(name: str, state: StateOf) -> Json:
    """Show an adapter."""
    return adapter_json(state.registry.catalog.adapter(name))


@router.delete("/{name}")
async def delete(name: str, state: StateOf) -> Json:
    """Delete an adapter with all versions and aliases. Requests in flight finish; version numbers are never reused."""
    await delete_adapter(state, name)
    return {"object": "adapter", "name": name, "deleted": True}
