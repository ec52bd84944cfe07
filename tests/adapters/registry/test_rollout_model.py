"""Rollouts against a model in plain Python, written through two registries of one database in turn."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from adapters.errors import (
    AliasNotFound,
    PatchbayError,
    RolloutChanged,
    RolloutNotFound,
    VersionInUse,
    VersionNotFound,
)
from adapters.registry.registry import Registry
from adapters.registry.rollout_rows import reason
from adapters.registry.rollouts import Rollouts
from adapters.rollout import WHOLE, RolloutPlan, RolloutSide, RolloutState
from adapters.rollout_tally import RolloutTally

T = TypeVar("T")

aliases = st.sampled_from(["stable", "prod"])
numbers = st.integers(1, 4)
weights = st.sampled_from([0, 100, 5000, WHOLE])
registries = st.integers(0, 1)
generations = st.none() | st.integers(1, 4)
ENDED, ROLLED_BACK, PROMOTED = RolloutState.ENDED, RolloutState.ROLLED_BACK, RolloutState.PROMOTED


@dataclass(frozen=True)
class ModelRollout:
    id: int
    candidate: int
    weight: int
    generation: int = 1
    state: RolloutState = RolloutState.ACTIVE
    good_before: int = 0

    def ended(self, state: RolloutState) -> ModelRollout:
        weight = self.weight if state is PROMOTED else 0
        return replace(self, state=state, weight=weight, generation=self.generation + 1)


class RolloutsAgainstModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.directory = tempfile.TemporaryDirectory()
        self.url = f"sqlite:///{self.directory.name}/registry.db"
        self.stack = AsyncExitStack()
        self.versions: set[int] = set()
        self.pointers: dict[str, int] = {}
        self.last: dict[str, ModelRollout] = {}
        self.good: dict[int, int] = {}
        self.made = 0
        self.open()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def open(self) -> None:
        self.registries = [self.run(self.stack.enter_async_context(Registry.open(self.url))) for _ in range(2)]

    def teardown(self) -> None:
        self.run(self.stack.aclose())
        self.runner.close()
        self.directory.cleanup()

    def outcome(self, work: Coroutine[Any, Any, Any]) -> type[PatchbayError] | None:
        """Do ``work``; return the class of its error."""
        try:
            self.run(work)
        except PatchbayError as error:
            return type(error)
        return None

    def active(self, alias: str) -> ModelRollout | None:
        last = self.last.get(alias)
        return last if last is not None and last.state is RolloutState.ACTIVE else None

    def expected(self, alias: str, generation: int | None) -> type[PatchbayError] | None:
        active = self.active(alias)
        if active is None:
            return RolloutNotFound
        return None if generation in (None, active.generation) else RolloutChanged

    def point(self, alias: str, to: int | None) -> None:
        if to == self.pointers.get(alias):
            return
        if (active := self.active(alias)) is not None:
            self.last[alias] = active.ended(PROMOTED if to == active.candidate else ENDED)
        if to is None:
            del self.pointers[alias]
        else:
            self.pointers[alias] = to

    @initialize()
    def publish(self) -> None:
        for _ in range(4):
            facts = {"digest": "0" * 64, "base_fingerprint": "base", "rank": 8, "size_bytes": 1, "source": "upload"}
            self.run(self.registries[0].add_version("sql", **facts, report={}))
        self.versions = {1, 2, 3, 4}
        self.pointers = {"stable": 1}

    @rule(by=registries, alias=aliases, candidate=numbers, weight=weights, generation=generations)
    def put(self, by: int, alias: str, candidate: int, weight: int, generation: int | None) -> None:
        work = Rollouts(self.registries[by]).put("sql", alias, candidate, weight, RolloutPlan(), generation=generation)
        error = self.outcome(work)
        if alias not in self.pointers:
            assert error is AliasNotFound
        elif candidate not in self.versions:
            assert error is VersionNotFound
        elif self.pointers[alias] == candidate:
            assert error is VersionInUse
        elif generation is not None and (lost := self.expected(alias, generation)) is not None:
            assert error is lost
        else:
            assert error is None
            active = self.active(alias)
            if active is not None and active.candidate == candidate:
                good = active.good_before if weight == active.weight else self.good.get(active.id, 0)
                changed = replace(active, weight=weight, generation=active.generation + 1, good_before=good)
                self.last[alias] = changed
            else:
                self.made += 1
                self.last[alias] = ModelRollout(self.made, candidate, weight)

    @rule(by=registries, alias=aliases, generation=generations)
    def promote(self, by: int, alias: str, generation: int | None) -> None:
        error = self.outcome(Rollouts(self.registries[by]).promote("sql", alias, generation=generation))
        if alias not in self.pointers:
            assert error is AliasNotFound
            return
        assert error is self.expected(alias, generation)
        if error is None:
            self.point(alias, self.last[alias].candidate)

    @rule(by=registries, alias=aliases, state=st.sampled_from([ENDED, ROLLED_BACK]), generation=generations)
    def end(self, by: int, alias: str, state: RolloutState, generation: int | None) -> None:
        work = Rollouts(self.registries[by]).end("sql", alias, state, reason("x", "y"), generation=generation)
        error = self.outcome(work)
        assert error is self.expected(alias, generation)
        if error is None:
            self.last[alias] = self.last[alias].ended(state)

    @rule(by=registries, alias=aliases, weight=weights)
    def step(self, by: int, alias: str, weight: int) -> None:
        """Take a step from the catalog of one registry, which may be out of date."""
        found = self.registries[by].catalog.adapter("sql").aliases.get(alias)
        if found is None or found.rollout is None:
            return
        error = self.outcome(Rollouts(self.registries[by]).step(found.rollout, weight, good=7))
        active = self.active(alias)
        is_same = active is not None and active.generation == found.rollout.generation
        assert (error is None) == is_same
        if active is not None and is_same:
            self.last[alias] = replace(active, weight=weight, generation=active.generation + 1, good_before=7)

    @rule(by=registries, alias=aliases, requests=st.integers(1, 9), errors=st.integers(0, 1))
    def count(self, by: int, alias: str, requests: int, errors: int) -> None:
        if (last := self.last.get(alias)) is None:
            return
        counted = RolloutTally({"requests": requests, "errors": errors})
        unknown = {(999, RolloutSide.CANDIDATE): counted}
        self.run(Rollouts(self.registries[by]).add({(last.id, RolloutSide.CANDIDATE): counted, **unknown}))
        self.good[last.id] = self.good.get(last.id, 0) + requests - errors

    @rule(by=registries, alias=aliases, number=numbers)
    def move(self, by: int, alias: str, number: int) -> None:
        error = self.outcome(self.registries[by].move_alias("sql", alias, number))
        assert error is (None if number in self.versions else VersionNotFound)
        if error is None:
            self.point(alias, number)

    @rule(by=registries, alias=aliases)
    def delete_alias(self, by: int, alias: str) -> None:
        error = self.outcome(self.registries[by].delete_alias("sql", alias))
        assert error is (None if alias in self.pointers else AliasNotFound)
        if error is None:
            self.point(alias, None)

    @rule(by=registries, number=numbers)
    def delete_version(self, by: int, number: int) -> None:
        error = self.outcome(self.registries[by].delete_version("sql", number))
        if number not in self.versions:
            assert error is VersionNotFound
        elif number in self.pointers.values():
            assert error is VersionInUse
        else:
            assert error is None
            self.versions.remove(number)
            for alias in self.last:
                if (active := self.active(alias)) is not None and active.candidate == number:
                    self.last[alias] = active.ended(ENDED)

    @rule()
    def reopen(self) -> None:
        self.run(self.stack.aclose())
        self.open()

    @invariant()
    def both_catalogs_have_the_active_rollouts_and_no_others(self) -> None:
        expected = {alias: active for alias in self.last if (active := self.active(alias)) is not None}
        for registry in self.registries:
            self.run(registry.refresh())
            adapter = registry.catalog.get("sql")
            if adapter is None:
                return  # before the first rule
            found = {alias.name: alias.rollout for alias in adapter.aliases.values() if alias.rollout is not None}
            assert {rollout.id for rollout in registry.catalog.rollouts().values()} == {
                model.id for model in expected.values()
            }
            assert found.keys() == expected.keys()
            for alias, model in expected.items():
                rollout = found[alias]
                assert (rollout.id, rollout.candidate, rollout.weight, rollout.generation, rollout.good_before) == (
                    model.id,
                    model.candidate,
                    model.weight,
                    model.generation,
                    model.good_before,
                )
                assert rollout.version == self.pointers[alias] == adapter.aliases[alias].version
                assert registry.catalog.candidates()

    @invariant()
    def the_last_rollout_and_its_counts_are_kept(self) -> None:
        for alias, model in self.last.items():
            stored = self.run(Rollouts(self.registries[0]).last("sql", alias))
            assert (stored.id, stored.state, stored.weight) == (model.id, model.state, model.weight)
            tallies = self.run(Rollouts(self.registries[1]).tallies([stored.id]))
            counted = tallies.get((stored.id, RolloutSide.CANDIDATE), RolloutTally())
            assert counted.good == self.good.get(stored.id, 0)


TestRolloutsAgainstModel = RolloutsAgainstModel.TestCase
TestRolloutsAgainstModel.settings = settings(
    max_examples=10, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
