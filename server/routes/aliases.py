"""Aliases: listed, shown, moved by compare-and-set, rolled back, deleted."""

from __future__ import annotations

from fastapi import APIRouter

from adapters.names import DEFAULT_ALIAS
from adapters.registry.registry import UNSET
from server.http.schemas.aliases import AliasHistory, AliasObject, DeletedAlias, MoveBody, PromoteBody, RollbackBody
from server.http.schemas.response import ListObject
from server.operations.aliases import move_alias, roll_back
from server.routes.dependencies import StateDep

router = APIRouter(prefix="/v1/adapters/{name}", tags=["aliases"])


@router.get("/aliases")
async def list_aliases(name: str, state: StateDep) -> ListObject[AliasObject]:
    """List the aliases of an adapter."""
    return ListObject[AliasObject].from_entries(state.registry.catalog.adapter(name).aliases.values())


@router.get("/aliases/{alias}")
async def show(name: str, alias: str, state: StateDep) -> AliasHistory:
    """Show the version that an alias points to, and every move of the alias."""
    moves = await state.registry.moves(name, alias)
    return AliasHistory.from_moves(state.registry.catalog.alias(name, alias), moves)


@router.put("/aliases/{alias}")
async def move(name: str, alias: str, body: MoveBody, state: StateDep) -> AliasObject:
    """Point an alias to a version. With ``expected`` or ``generation`` the loser of a race gets 412."""
    state.registry.catalog.adapter(name)
    moved = await move_alias(
        state,
        name,
        alias,
        body.version,
        expected=body.expected if "expected" in body.model_fields_set else UNSET,
        generation=UNSET if body.generation is None else body.generation,
    )
    return AliasObject.model_validate(moved)


@router.delete("/aliases/{alias}")
async def delete(name: str, alias: str, state: StateDep) -> DeletedAlias:
    """Delete an alias; the version it pointed to stays."""
    await state.registry.delete_alias(name, alias)
    return DeletedAlias(adapter=name, alias=alias)


@router.post("/promote")
async def promote(name: str, body: PromoteBody, state: StateDep) -> AliasObject:
    """Point ``stable`` to a version."""
    return AliasObject.model_validate(await move_alias(state, name, DEFAULT_ALIAS, body.version))


@router.post("/rollback")
async def rollback(name: str, state: StateDep, body: RollbackBody | None = None) -> AliasObject:
    """Point an alias back to the version before its last move."""
    return AliasObject.model_validate(await roll_back(state, name, (body or RollbackBody()).alias))
