"""Adapters: listed, shown, deleted; their aliases: listed, shown, moved by compare-and-set, rolled back, deleted."""

from dataclasses import asdict

from fastapi import APIRouter, Depends, Request

from adapters.names import DEFAULT_ALIAS
from adapters.registry.registry import UNSET
from server.accounts.audited import add_to_audit
from server.http.schemas.adapters import (
    AdapterObject,
    AliasHistory,
    AliasObject,
    DeletedAdapter,
    DeletedAlias,
    MoveBody,
    PromoteBody,
    RollbackBody,
)
from server.http.schemas.base import ListObject
from server.operations import aliases
from server.operations.deletion import delete_adapter
from server.routes.dependencies import DEFAULT_PAGE, PageLimit, ProjectDep, StateDep, VisibleDep, check_adapter

router = APIRouter(prefix="/v1/adapters", tags=["adapters"], dependencies=[Depends(check_adapter)])


@router.get("")
async def list_adapters(
    adapters: VisibleDep, seen: ProjectDep, after: str | None = None, limit: PageLimit = DEFAULT_PAGE
) -> ListObject[AdapterObject]:
    """List adapters by name; ``after`` is the last name of the page before."""
    page, has_more = adapters.page(after, limit)
    data = [AdapterObject.from_adapter(adapter, seen) for adapter in page]
    return ListObject[AdapterObject](data=data, has_more=has_more)


@router.get("/{name}")
async def show(name: str, state: StateDep, seen: ProjectDep) -> AdapterObject:
    """Show an adapter."""
    return AdapterObject.from_adapter(await state.registry.look_up(lambda catalog: catalog.adapter(name)), seen)


@router.delete("/{name}")
async def delete(name: str, state: StateDep) -> DeletedAdapter:
    """Delete an adapter with all versions and aliases. Requests in flight finish; version numbers are never reused."""
    await delete_adapter(state, name)
    return DeletedAdapter(name=name)


@router.put("/{name}/shares/{project}")
async def share(name: str, project: str, state: StateDep, seen: ProjectDep) -> AdapterObject:
    """Let another project use and read an adapter: all its versions, those to come too.

    It needs ``admin``, as OpenAI's permissions on checkpoints do: a share puts a name among those that the other
    project calls.
    """
    await state.registry.share(name, project)
    return AdapterObject.from_adapter(state.registry.catalog.adapter(name), seen)


@router.delete("/{name}/shares/{project}")
async def unshare(name: str, project: str, state: StateDep, seen: ProjectDep) -> AdapterObject:
    """End a share; requests in flight finish. Both projects may end it."""
    await state.registry.unshare(name, project)
    return AdapterObject.from_adapter(state.registry.catalog.adapter(name), seen)


@router.get("/{name}/aliases")
async def list_aliases(name: str, state: StateDep) -> ListObject[AliasObject]:
    """List the aliases of an adapter."""
    adapter = await state.registry.look_up(lambda catalog: catalog.adapter(name))
    return ListObject[AliasObject](data=adapter.aliases.values())


@router.get("/{name}/aliases/{alias}")
async def show_alias(name: str, alias: str, state: StateDep) -> AliasHistory:
    """Show the version that an alias points to, and every move of the alias."""
    await state.registry.try_refresh()  # the moves are read from the database, so the target must be
    moves = await state.registry.moves(name, alias)
    found = await state.registry.look_up(lambda catalog: catalog.alias(name, alias))
    return AliasHistory.model_validate({**asdict(found), "moves": moves})


@router.put("/{name}/aliases/{alias}")
async def move_alias(name: str, alias: str, body: MoveBody, request: Request, state: StateDep) -> AliasObject:
    """Point an alias to a version. With ``expected`` or ``generation`` the loser of a race gets 412.

    With ``require`` the alias demands a verdict from then on; a move to a version without it is refused (409).
    """
    _audit(request, body)
    moved = await aliases.move_alias(
        state,
        name,
        alias,
        body.version,
        expected=body.expected if "expected" in body.model_fields_set else UNSET,
        generation=UNSET if body.generation is None else body.generation,
        require=body.require if "require" in body.model_fields_set else UNSET,
        is_forced=body.force,
    )
    return AliasObject.model_validate(moved)


@router.delete("/{name}/aliases/{alias}")
async def delete_alias(name: str, alias: str, state: StateDep) -> DeletedAlias:
    """Delete an alias; the version it pointed to stays."""
    await state.registry.delete_alias(name, alias)
    return DeletedAlias(adapter=name, alias=alias)


@router.post("/{name}/promote")
async def promote(name: str, body: PromoteBody, request: Request, state: StateDep) -> AliasObject:
    """Point ``stable`` to a version."""
    _audit(request, body)
    moved = await aliases.move_alias(state, name, DEFAULT_ALIAS, body.version, is_forced=body.force)
    return AliasObject.model_validate(moved)


@router.post("/{name}/rollback")
async def rollback(name: str, state: StateDep, body: RollbackBody | None = None) -> AliasObject:
    """Point an alias back to the version before its last move."""
    return AliasObject.model_validate(await aliases.roll_back(state, name, (body or RollbackBody()).alias))


def _audit(request: Request, body: PromoteBody) -> None:
    """Record what a move did to the alias's gate."""
    gate = body.model_dump(mode="json", include={"force", "require"}, exclude_unset=True)
    add_to_audit(request.scope, **gate)
