"""The rollout of an alias: begun and changed, shown, promoted, rolled back, ended."""

from __future__ import annotations

import re
from typing import Final

from fastapi import APIRouter, Depends, Request

from adapters.names import check_alias
from adapters.registry.rollouts import Rollouts
from adapters.rollout import Rollout, RolloutSide, RolloutState
from adapters.rollout_tally import RolloutTally
from server.access.caller import Caller
from server.access.scope import Scope
from server.accounts.audited import add_to_audit
from server.errors import ApiKeyNeeded, InvalidRequest
from server.gateway.authenticate import require
from server.http.schemas.base import DeletedObject
from server.http.schemas.rollouts import PromoteRolloutBody, RollbackRolloutBody, RolloutBody, RolloutObject
from server.operations import rollouts
from server.operations.grader_client import GraderClient, as_caller
from server.rollouts.guards import ScoreGuard
from server.routes.dependencies import CallerDep, StateDep, VisibleDep, check_adapter
from server.state import AppState
from trainer.graders.grader import Grader
from trainer.graders.multi import MultiGrader
from trainer.graders.parsing import parse
from trainer.graders.reward_model import RewardModelGrader

router = APIRouter(
    prefix="/v1/adapters/{name}/aliases/{alias}/rollout", tags=["adapters"], dependencies=[Depends(check_adapter)]
)

_ITEM: Final = re.compile(r"\{\{\s*item\b")


@router.put("")
async def put(
    name: str, alias: str, body: RolloutBody, request: Request, state: StateDep, caller: CallerDep
) -> RolloutObject:
    """Begin a rollout, or change the active one of the same candidate: sticky callers stay where they are."""
    check_alias(alias)
    _check_key(body, caller)
    await _check_graders(body, request, state, caller)
    if body.force:
        add_to_audit(request.scope, force=True)
    draft = rollouts.RolloutDraft(body.candidate, body.parts, body.plan(), caller.key_id, body.generation)
    return await _shown(state, await rollouts.put_rollout(state, name, alias, draft))


@router.get("")
async def show(name: str, alias: str, state: StateDep, adapters: VisibleDep) -> RolloutObject:
    """Show the active rollout of an alias, or the last one."""
    adapters.owned(name)
    return await _shown(state, await Rollouts(state.registry).last(name, alias))


@router.delete("")
async def delete(name: str, alias: str, state: StateDep) -> DeletedObject:
    """End the active rollout: the current version answers all requests. What was counted stays."""
    ended = await rollouts.end(state, name, alias, RolloutState.ENDED)
    return DeletedObject(object="adapter.rollout", id=ended.name)


@router.post("/promote")
async def promote(
    name: str, alias: str, request: Request, state: StateDep, body: PromoteRolloutBody | None = None
) -> RolloutObject:
    """Point the alias to the candidate, which ends the rollout. Open streams finish where they began."""
    body = body or PromoteRolloutBody()
    if body.force:
        add_to_audit(request.scope, force=True)
    _, ended = await rollouts.promote(state, name, alias, generation=body.generation, is_forced=body.force)
    return await _shown(state, ended)


@router.post("/rollback")
async def rollback(name: str, alias: str, state: StateDep, body: RollbackRolloutBody | None = None) -> RolloutObject:
    """Roll back: the current version answers all requests again."""
    generation = None if body is None else body.generation
    ended = await rollouts.end(state, name, alias, RolloutState.ROLLED_BACK, generation=generation)
    return await _shown(state, ended)


async def _shown(state: AppState, rollout: Rollout) -> RolloutObject:
    """Return a rollout with the counts of all servers, and those that this one has not written yet."""
    stored, unwritten = await Rollouts(state.registry).tallies([rollout.id]), state.hooks.rollouts.tallies
    keys = {side: (rollout.id, side) for side in RolloutSide}
    sides = {side: stored.get(key, RolloutTally()) + unwritten.get(key, RolloutTally()) for side, key in keys.items()}
    return RolloutObject.of(rollout, sides)


def _check_key(body: RolloutBody, caller: Caller) -> None:
    """Check that shadow requests, and those of graders, can be sent in the caller's name while the rollout lasts."""
    asks_models = any(isinstance(guard, ScoreGuard) for guard in body.guards)
    if body.shadow:
        require(caller, Scope.INFER, "a shadow")
    if caller.has_token and (body.shadow or asks_models):
        raise ApiKeyNeeded(
            "shadow requests and graders' requests are sent in the caller's name while the rollout lasts, and a bearer "
            "token expires before: use an API key, which an operator makes with `patchbay keys create NAME --scope "
            "aliases:write --scope infer`"
        )


async def _check_graders(body: RolloutBody, request: Request, state: AppState, caller: Caller) -> None:
    """Check the graders of the guards: their fields, their models, and that they read the answer alone."""
    models = GraderClient(state, caller, as_caller(request.app.state.gateway, {}))
    for number, guard in enumerate(body.guards):
        if isinstance(guard, ScoreGuard):
            where = f"guards.{number}.grader"
            grader = parse(guard.grader, where)
            if _ITEM.search(guard.model_dump_json()) or _reads_messages(grader):
                raise InvalidRequest(
                    f"{where}: live requests have no item, so no template can read {{{{item.…}}}}, and no reward model "
                    "item.messages: grade {{sample.output_text}} alone",
                    param=where,
                )
            await grader.check(models, where)


def _reads_messages(grader: Grader) -> bool:
    """Whether ``grader``, or one of a multi, is a reward model that reads the conversation of the item."""
    if isinstance(grader, MultiGrader):
        return any(map(_reads_messages, grader.graders.values()))
    return isinstance(grader, RewardModelGrader) and grader.input is None
