"""Rollouts begun, changed, promoted and rolled back; their candidates are resident before a request may meet them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from adapters.errors import PatchbayError
from adapters.gate import check_gate
from adapters.registry.rollout_rows import reason
from adapters.registry.rollouts import Rollouts
from adapters.rollout import Rollout, RolloutPlan, RolloutState
from adapters.versions import Alias
from server.accounts.audit_log import AuditEvent
from server.errors import Unavailable
from server.operations.residents import make_resident
from server.state import AppState

log = structlog.get_logger(__name__)

_OK = 200


@dataclass(frozen=True, slots=True)
class RolloutDraft:
    """What a caller asks for."""

    candidate: int
    weight: int
    plan: RolloutPlan
    key_id: str | None
    generation: int | None


async def put_rollout(state: AppState, name: str, alias: str, draft: RolloutDraft) -> Rollout:
    """Begin or change a rollout, with the candidate resident first; raises as ``Rollouts.put``.

    Without an engine at present, the candidate answers nothing until it has been loaded.

    Raises:
        PatchbayError: the candidate cannot be loaded.
    """
    candidate = await state.registry.look_up(lambda catalog: catalog.version(name, draft.candidate))
    current = await state.registry.look_up(lambda catalog: catalog.alias(name, alias))
    if (draft.weight or draft.plan.steps) and not draft.plan.is_forced:  # before the load, and again with the write
        report = await state.registry.report(candidate)
        check_gate(current.require, report, version=candidate.name, alias=alias)
    is_resident = False
    try:
        await make_resident(state, candidate)
        is_resident = True
    except Unavailable as busy:
        log.warning("a candidate cannot be loaded yet", version=candidate.name, reason=busy.message)
    rollout = await Rollouts(state.registry).put(
        name,
        alias,
        draft.candidate,
        draft.weight,
        draft.plan,
        key_id=draft.key_id,
        generation=draft.generation,
    )
    if is_resident:
        state.hooks.rollouts.ready.add(rollout.id)
    log.info("rollout set", rollout=rollout.name, alias=f"{name}@{alias}", candidate=rollout.candidate_name)
    return rollout


async def promote(
    state: AppState, name: str, alias: str, *, generation: int | None = None, is_forced: bool = False
) -> tuple[Alias, Rollout]:
    """Point the alias to the candidate; open streams finish where they began. Raises as ``Rollouts.promote``."""
    rollouts = Rollouts(state.registry)
    rollout = await rollouts.last(name, alias)
    if rollout.state is RolloutState.ACTIVE:
        candidate = await state.registry.look_up(lambda catalog: catalog.version(name, rollout.candidate))
        try:
            await make_resident(state, candidate)
        except Unavailable as busy:  # as for any move of an alias: the first request loads it
            log.warning("a candidate is promoted unloaded", version=candidate.name, reason=busy.message)
    moved, ended = await rollouts.promote(name, alias, generation=generation, is_forced=is_forced)
    log.info("rollout promoted", rollout=ended.name, alias=f"{name}@{alias}", version=ended.candidate_name)
    return moved, ended


async def roll_back_by_itself(state: AppState, rollout: Rollout, why: Mapping[str, Any]) -> None:
    """Roll an active rollout back, and record the reason. Without effect if it has changed or ended meanwhile."""
    try:
        await Rollouts(state.registry).end(
            rollout.adapter, rollout.alias, RolloutState.ROLLED_BACK, why, generation=rollout.generation
        )
    except PatchbayError as changed:  # by a caller, or by another server: the next look decides anew
        log.info("a rollout was not rolled back", rollout=rollout.name, reason=changed.message)
        return
    log.warning("rollout rolled back", rollout=rollout.name, reason=why)
    await record(state, rollout, "rollback", why)


async def record(state: AppState, rollout: Rollout, action: str, why: Mapping[str, Any]) -> None:
    """Add a row to the audit log for what a rollout did by itself."""
    adapter = state.registry.catalog.get(rollout.adapter)
    await state.accounts.audit_log.add(
        AuditEvent(
            key_id="",
            project="" if adapter is None else adapter.project,
            address="",
            action=f"rollout {action}",
            parameters={
                "name": rollout.adapter,
                "alias": rollout.alias,
                "candidate": rollout.candidate,
                "reason": dict(why),
            },
            status=_OK,
            result=rollout.name,
        )
    )


async def end(state: AppState, name: str, alias: str, ended: RolloutState, *, generation: int | None = None) -> Rollout:
    """End the active rollout in the name of its caller; raises as ``Rollouts.end``."""
    why = reason("by_caller", "its caller ended it")
    return await Rollouts(state.registry).end(name, alias, ended, why, generation=generation)
