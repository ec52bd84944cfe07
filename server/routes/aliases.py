"""Aliases: moved by compare-and-set, rolled back, deleted."""

from __future__ import annotations

from fastapi import APIRouter

from adapters.names import DEFAULT_ALIAS
from adapters.registry.registry import UNSET
from server.http.schemas.adapters import Json, MoveBody, PromoteBody, RollbackBody, alias_json, list_json, move_json
from server.operations.aliases import move_alias, roll_back
from server.routes.inputs import StateOf

router = APIRouter(prefix="/v1/adapters/{name}", tags=["aliases"])


@router.get("/aliases")
async def list_aliases(name: str, state: StateOf) -> Json:
    """List the aliases of an adapter."""
    aliases = state.registry.catalog.adapter(name).aliases.values()
    return list_json([alias_json(alias) for alias in aliases], has_more=False)


@router.get("/aliases/{alias}")
async def show(name: str, alias: str, state: StateOf) -> Json:
    """Show where an alias points, and every move it made."""
    moves = await state.registry.moves(name, alias)
    return {
        **alias_json(state.registry.catalog.alias(name, alias)),
        "moves": [move_json(move) for move in moves],
    }


@router.put("/aliases/{alias}")
async def move(name: str, alias: str, body: MoveBody, state: StateOf) -> Json:
    """Point an alias to a version. With ``expected`` or ``generation`` the loser of a race gets 412."""
    state.registry.catalog.adapter(name)
    return alias_json(
        await move_alias(
            state,
            name,
            alias,
            body.version,
            expected=body.expected if "expected" in body.model_fields_set else UNSET,
            generation=UNSET if body.generation is None else body.generation,
        )
    )


@router.delete("/aliases/{alias}")
async def delete(name: str, alias: str, state: StateOf) -> Json:
    """Delete an alias; the version it pointed to stays."""
    await state.registry.delete_alias(name, alias)
    return {"object": "adapter.alias", "adapter": name, "alias": alias, "deleted": True}


@router.post("/promote")
async def promote(name: str, body: PromoteBody, state: StateOf) -> Json:
    """Point ``stable`` to a version."""
    return alias_json(await move_alias(state, name, DEFAULT_ALIAS, body.version))


@router.post("/rollback")
async def rollback(name: str, state: StateOf, body: RollbackBody | None = None) -> Json:
    """Point an alias back to where it pointed before its last move."""
    return alias_json(await roll_back(state, name, (body or RollbackBody()).alias))
