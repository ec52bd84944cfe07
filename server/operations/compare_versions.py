"""Two versions compared by their scores: the engine scores the probe's prompts under each and under the base model."""

from collections.abc import Sequence
from math import isfinite
from typing import Any

from adapters.errors import PatchbayError
from adapters.versions import Version
from server.current_engine import CurrentEngine, RunningEngine
from server.engine.protocol import EngineGone, Resident, ScoringUnsupported
from server.gateway.resolve import check_base
from server.probe.probe import DEMAND, prompts_for
from server.probe.verdict import Distance, Scores


async def compare_versions(current: CurrentEngine, a: Version, b: Version, project: str) -> dict[str, Any]:
    """Return the distances between the log-probabilities under ``a``, ``b`` and the base model, as JSON values.

    Each version is loaded if it is not resident, and leased while it scores, one after the other, each in a turn of
    ``project`` with the engine. Where no scores can
    be had, ``answers`` is None and ``notes`` names the reason: the engine is starting, the version was made for
    another base model, or the engine refused it.
    """
    try:
        running = current.serving()
        prompts = prompts_for(running.engine)
        of_a, of_b = [
            await _leased_scores(running, check_base(each, running.info), prompts, project) for each in (a, b)
        ]
        of_base = await _scores(running, None, prompts, project)
    except PatchbayError as trouble:
        return _unknown(trouble.message)
    except EngineGone:
        return _unknown("the engine died meanwhile; it is being rebuilt")
    except ScoringUnsupported as unsupported:
        return _unknown(f"not scored: {unsupported}")
    if not all(isfinite(score) for scores in (of_a, of_b, of_base) for prompt in scores for score in prompt):
        return _unknown("a version breaks the engine's arithmetic: there are scores that are no numbers")
    distances = {
        "distance": Distance.between(of_a, of_b),
        "effect_a": Distance.between(of_a, of_base),
        "effect_b": Distance.between(of_b, of_base),
    }
    counted = {"prompts": len(prompts), "tokens": sum(map(len, of_base))}
    return {"answers": counted | {name: each.to_json() for name, each in distances.items()}, "notes": []}


async def _leased_scores(
    running: RunningEngine, version: Version, prompts: Sequence[Sequence[int]], project: str
) -> Scores:
    lease = await running.residency.lease(version)
    try:
        return await _scores(running, lease.resident, prompts, project)
    finally:
        lease.release()


async def _scores(
    running: RunningEngine, resident: Resident | None, prompts: Sequence[Sequence[int]], project: str
) -> Scores:
    key = None if resident is None else resident.id
    turn = await running.scheduler.turn(key, DEMAND, project=project)
    try:
        return await running.engine.score(resident, prompts)
    finally:
        running.scheduler.end(turn)


def _unknown(why: str) -> dict[str, Any]:
    return {"answers": None, "notes": [f"answers not compared: {why}"]}
