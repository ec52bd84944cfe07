"""Graders of rollouts act for the key that set the rollout: they ask what its holder may see, and no more."""

from __future__ import annotations

from typing import Any

import pytest

from adapters.registry.rollouts import Rollouts
from adapters.rollout import RolloutSide
from adapters.rollout_tally import RolloutTally
from server.access.scope import Scope
from server.operations import rollout_runner
from server.operations.grader_client import GraderClient
from server.rollouts.guards import read_guards
from tests.server.opened import Opened
from tests.until import until

ROLLOUT = "/v1/adapters/sql/aliases/stable/rollout"
GRADER = {
    "type": "string_check",
    "name": "any",
    "input": "{{sample.output_text}}",
    "reference": "sql",
    "operation": "like",
}
GUARD: dict[str, Any] = {"type": "score", "grader": GRADER}


async def test_a_score_guard_grades_as_the_key_that_set_the_rollout(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str | None, str, bool]] = []

    def client(*args: Any, **options: Any) -> GraderClient:
        made = GraderClient(*args, **options)
        seen.append((made.caller.key_id, made.project, made.caller.may(Scope.ADMIN)))
        return made

    monkeypatch.setattr(rollout_runner, "GraderClient", client)
    scopes = [Scope.ADAPTERS_WRITE, Scope.ADAPTERS_READ, Scope.ALIASES_WRITE, Scope.INFER]
    key, secret = await opened.state.keys.create("setter", scopes, project="acme")
    opened.client.headers["authorization"] = f"Bearer {secret}"
    for seed in (1, 2):
        await opened.publish("sql", seed)
    begun = await opened.client.put(ROLLOUT, json={"candidate": 2, "weight": 0, "shadow": 1, "guards": [GUARD]})
    assert begun.status_code == 200, begun.text
    assert (await opened.chat("sql")).status_code == 200
    (guard,) = read_guards([GUARD])
    rollouts, (rollout_id,) = Rollouts(opened.state.registry), opened.state.registry.catalog.rollouts()

    async def is_scored() -> bool:
        tallies = await rollouts.tallies([rollout_id])
        return guard.requests(tallies.get((rollout_id, RolloutSide.CURRENT), RolloutTally())) == 1

    await until(is_scored, every_s=0.05)
    assert seen == [(key.id, "acme", False)]
