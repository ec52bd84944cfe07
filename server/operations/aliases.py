"""Aliases moved without a cold start: the version is resident before its alias points to it."""

from contextlib import suppress
from typing import Literal

from adapters.gate import Requirement, check_gate
from adapters.registry.registry import UNSET, Unset
from adapters.versions import Alias
from server.errors import Unavailable
from server.operations.residents import make_resident, warm_up
from server.state import AppState


async def move_alias(
    state: AppState,
    name: str,
    alias: str,
    version: int,
    *,
    expected: int | Literal[Unset.UNSET] | None = UNSET,
    generation: int | Literal[Unset.UNSET] = UNSET,
    require: Requirement | Literal[Unset.UNSET] | None = UNSET,
    is_forced: bool = False,
) -> Alias:
    """Point ``alias`` of adapter ``name`` to ``version`` after making the version resident.

    Raises:
        AliasMoved: the alias is not at ``expected`` or ``generation`` (compare-and-set).
        VerdictNeeded: the version lacks the verdict that the alias demands; it is not loaded for that.
        PatchbayError: the version cannot be loaded; the alias stays where it is.
    """
    target = await state.registry.look_up(lambda catalog: catalog.version(name, version))
    current = state.registry.catalog.adapter(name).aliases.get(alias)
    demanded = require if require is not UNSET else None if current is None else current.require
    if demanded is not None and not is_forced and (current is None or current.version != version):
        check_gate(demanded, await state.registry.report(target), version=target.name, alias=alias)
    if expected is UNSET or expected == (None if current is None else current.version):
        with suppress(Unavailable):  # no engine, or no capacity now: the first request loads the version
            await make_resident(state, target)
    return await state.registry.move_alias(
        name, alias, version, expected=expected, generation=generation, require=require, is_forced=is_forced
    )


async def roll_back(state: AppState, name: str, alias: str) -> Alias:
    """Point ``alias`` back to the version that it pointed to before its last move."""
    moved = await state.registry.rollback(name, alias)
    await warm_up(state, state.registry.catalog.version(name, moved.version))
    return moved
