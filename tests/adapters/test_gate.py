"""The gate of an alias: a verdict in a version's report lets a move through, or refuses it with its numbers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from adapters.errors import VerdictNeeded
from adapters.gate import Requirement, VerdictResult, passes, verdict_in
from adapters.names import FineTunedName
from adapters.registry.registry import Registry
from adapters.registry.rollouts import Rollouts
from adapters.rollout import RolloutPlan, RolloutState
from adapters.versions import Version
from tests.postgres import on_both_databases

AddVersion = Callable[..., Awaitable[Version]]
FINE_TUNED = FineTunedName("ft:base:patchbay::abc")


def report(result: str) -> dict[str, Any]:
    return {"verdict": {"result": result, "of": {"score": 0.5, "before": 0.7}}}


@pytest.mark.parametrize(
    ("requirement", "passing"),
    [
        (None, {"better", "no_gain", "worse", "unknown"}),
        (Requirement.BETTER, {"better"}),
        (Requirement.NO_WORSE, {"better", "no_gain"}),
    ],
)
def test_a_requirement_is_satisfied_by_its_verdicts(requirement: Requirement | None, passing: set[str]) -> None:
    results = {*VerdictResult, "unknown"}
    assert {result for result in results if passes(requirement, report(result))} == passing


@pytest.mark.parametrize("broken", [{}, {"verdict": None}, {"verdict": "better"}, {"verdict": {"of": {}}}])
def test_a_report_without_a_well_formed_verdict_has_none(broken: dict[str, Any]) -> None:
    assert verdict_in(broken) is None
    assert not passes(Requirement.NO_WORSE, broken)


async def judged(registry: Registry, number: int, result: str) -> None:
    """Write a verdict into a version's report, by hand."""
    async with registry.write() as rows:
        adapter = await rows.changing_adapter("sql")
        await rows.add_to_report(await rows.living_version(adapter, number), report(result))


@pytest.fixture
async def gated(registry: Registry, add: AddVersion) -> Registry:
    """An alias that demands `better`, on version 1 of 3; version 2 is worse, version 3 better."""
    for _ in range(3):
        await add("sql")
    await judged(registry, 2, "worse")
    await judged(registry, 3, "better")
    await registry.move_alias("sql", "stable", 1, require=Requirement.BETTER)
    return registry


@on_both_databases
async def test_a_move_to_a_version_without_the_verdict_is_refused_with_its_numbers(gated: Registry) -> None:
    with pytest.raises(VerdictNeeded, match="evaluate the version, choose another one, or send `force`") as refused:
        await gated.move_alias("sql", "stable", 2)
    assert refused.value.details == {"require": "better", **report("worse")}
    assert gated.catalog.alias("sql", "stable").version == 1
    assert (await gated.move_alias("sql", "stable", 3)).version == 3


@on_both_databases
async def test_a_forced_move_is_in_the_aliass_history(gated: Registry) -> None:
    await gated.move_alias("sql", "stable", 3, is_forced=True)  # needs no force
    await gated.move_alias("sql", "stable", 2, is_forced=True)
    assert [(move.to_version, move.is_forced) for move in await gated.moves("sql")] == [
        (1, False),
        (3, False),
        (2, True),
    ]


@on_both_databases
async def test_a_requirement_stays_until_it_is_changed_or_the_alias_is_deleted(gated: Registry) -> None:
    await gated.refresh()
    assert gated.catalog.alias("sql", "stable").require is Requirement.BETTER
    await gated.move_alias("sql", "stable", 1)
    assert gated.catalog.alias("sql", "stable").require is Requirement.BETTER
    await gated.move_alias("sql", "stable", 2, require=None)
    assert gated.catalog.alias("sql", "stable").require is None
    await gated.move_alias("sql", "stable", 3, require=Requirement.NO_WORSE)
    await gated.delete_alias("sql", "stable")
    await gated.move_alias("sql", "stable", 2)
    assert gated.catalog.alias("sql", "stable").require is None


@on_both_databases
async def test_a_rollback_goes_back_without_a_verdict(gated: Registry) -> None:
    await gated.move_alias("sql", "stable", 3)
    assert (await gated.rollback("sql")).version == 1


@on_both_databases
async def test_the_result_of_a_job_is_named_and_its_alias_waits_for_the_verdict(
    gated: Registry, add: AddVersion
) -> None:
    await add("sql", fine_tuned_name=FineTunedName(f"{FINE_TUNED}:ckpt-step-1"))
    named = await gated.name_result("sql", 4, FINE_TUNED, report={"training": {}})
    assert gated.catalog.resolve(FINE_TUNED) == named
    assert gated.catalog.alias("sql", "stable").version == 1
    other = FineTunedName("ft:base:patchbay::xyz")
    await gated.name_result("sql", 4, other, report=report("better"))
    assert gated.catalog.alias("sql", "stable").version == 4


@on_both_databases
async def test_a_publication_cannot_move_the_alias(gated: Registry, add: AddVersion) -> None:
    with pytest.raises(VerdictNeeded):
        await add("sql", alias="stable")
    assert len(gated.catalog.adapter("sql").versions) == 3


@on_both_databases
async def test_a_rollout_needs_the_verdict_unless_it_is_forced_or_a_shadow_alone(gated: Registry) -> None:
    rollouts = Rollouts(gated)
    with pytest.raises(VerdictNeeded):
        await rollouts.put("sql", "stable", 2, 100, RolloutPlan())
    with pytest.raises(VerdictNeeded):
        await rollouts.put("sql", "stable", 2, 0, RolloutPlan(steps=[100]))
    await rollouts.put("sql", "stable", 2, 0, RolloutPlan(shadow=100))
    with pytest.raises(VerdictNeeded):
        await rollouts.promote("sql", "stable")
    await rollouts.put("sql", "stable", 2, 100, RolloutPlan(is_forced=True))
    moved, ended = await rollouts.promote("sql", "stable")
    assert (moved.version, ended.state) == (2, RolloutState.PROMOTED)
    assert (await gated.moves("sql"))[-1].is_forced
