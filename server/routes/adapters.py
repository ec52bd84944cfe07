"""Adapters: listed, shown, deleted."""

from __future__ import annotations

from fastapi import APIRouter

from server.routes.inputs import DEFAULT_PAGE, HouseOf, PageLimit
from server.routes.shapes import Json, adapter_json, list_json

router = APIRouter(prefix="/v1/adapters", tags=["adapters"])


@router.get("")
async def list_adapters(house: HouseOf, after: str | None = None, limit: PageLimit = DEFAULT_PAGE) -> Json:
    """List adapters by name; ``after`` is the last name of the page before."""
    adapters, has_more = house.registry.catalog.adapters(after=after, limit=limit)
    return list_json([adapter_json(adapter) for adapter in adapters], has_more=has_more)


@router.get("/{name}")
async def show(name: str, house: HouseOf) -> Json:
    """Show an adapter."""
    return adapter_json(house.registry.catalog.adapter(name))


@router.delete("/{name}")
async def delete(name: str, house: HouseOf) -> Json:
    """Delete an adapter with all versions and aliases. Requests in flight finish; version numbers are never reused."""
    await house.delete_adapter(name)
    return {"object": "adapter", "name": name, "deleted": True}
