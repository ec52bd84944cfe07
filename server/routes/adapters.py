"""Adapters: listed, shown, deleted."""

from __future__ import annotations

from fastapi import APIRouter

from server.http.schemas.adapters import AdapterObject, DeletedAdapter
from server.http.schemas.response import ListObject
from server.operations.deletion import delete_adapter
from server.routes.dependencies import DEFAULT_PAGE, PageLimit, StateDep

router = APIRouter(prefix="/v1/adapters", tags=["adapters"])


@router.get("")
async def list_adapters(
    state: StateDep, after: str | None = None, limit: PageLimit = DEFAULT_PAGE
) -> ListObject[AdapterObject]:
    """List adapters by name; ``after`` is the last name of the page before."""
    adapters, has_more = state.registry.catalog.adapters(after=after, limit=limit)
    return ListObject[AdapterObject].from_entries(map(AdapterObject.from_adapter, adapters), has_more=has_more)


@router.get("/{name}")
async def show(name: str, state: StateDep) -> AdapterObject:
    """Show an adapter."""
    return AdapterObject.from_adapter(state.registry.catalog.adapter(name))


@router.delete("/{name}")
async def delete(name: str, state: StateDep) -> DeletedAdapter:
    """Delete an adapter with all versions and aliases. Requests in flight finish; version numbers are never reused."""
    await delete_adapter(state, name)
    return DeletedAdapter(name=name)
