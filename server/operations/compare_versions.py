"""How far apart two versions answer: the engine scores the probe's prompts under each of them and under the base."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any

from adapters.errors import PatchbayError
from adapters.versions import Version
from server.engine.protocol import EngineGone, ScoringUnsupported
from server.gateway.resolve import check_base
from server.probe.probe import prompts_for
from server.probe.verdict import Distance, Scores
from server.supervisor import Serving, Supervisor


async def compare_versions(supervisor: Supervisor, a: Version, b: Version) -> dict[str, Any]:
    """Return the distances of the log-probabilities under ``a``, ``b`` and the base, or why there are none.

    Each version is held while it scores, one after the other, and is loaded first if need be. ``answers`` is None where
    the engine cannot tell, and ``notes`` says why: it is starting, the base is another one, a version is not taken.
    """
    try:
        serving = supervisor.serving()
        prompts = prompts_for(serving.engine)
        of_a, of_b = [await _scores(serving, check_base(version, serving.info), prompts) for version in (a, b)]
        of_base = await serving.engine.score(None, prompts)
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


async def _scores(serving: Serving, version: Version, prompts: Sequence[Sequence[int]]) -> Scores:
    lease = await serving.residency.lease(version)
    try:
        return await serving.engine.score(lease.resident, prompts)
    finally:
        lease.release()


def _unknown(why: str) -> dict[str, Any]:
    return {"answers": None, "notes": [f"answers not compared: {why}"]}
