"""The registry against a model in plain Python, with a second registry that follows, and reopened at will."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from adapters.errors import (
    AdapterNotFound,
    AliasMoved,
    AliasNotFound,
    NameTaken,
    PatchbayError,
    VersionInUse,
    VersionNotFound,
)
from adapters.names import FineTunedName
from adapters.registry.registry import UNSET, Registry
from adapters.versions import Version

T = TypeVar("T")

names = st.sampled_from(["sql", "poet"])
aliases = st.sampled_from(["stable", "canary"])
numbers = st.integers(1, 6)
checkpoints = st.builds(FineTunedName.of, st.just("base"), st.just("org"), st.none(), st.just("job"), st.integers(1, 6))
results = st.builds(FineTunedName.of, st.just("base"), st.just("org"), st.none(), st.sampled_from(["job", "other"]))


@dataclass
class ModelAdapter:
    next_version: int = 1
    is_living: bool = False
    versions: dict[int, bool] = field(default_factory=dict)
    """number -> is it pinned"""
    pointers: dict[str, int] = field(default_factory=dict)
    generations: dict[str, int] = field(default_factory=dict)
    back: dict[str, list[int]] = field(default_factory=dict)

    def point(self, alias: str, number: int) -> None:
        if self.pointers.get(alias) != number:
            self.pointers[alias] = number
            self.generations[alias] = self.generations.get(alias, 0) + 1
            self.back.setdefault(alias, []).append(number)

    def drop(self, alias: str) -> None:
        del self.pointers[alias]
        self.generations[alias] += 1
        self.back[alias] = []


class RegistryAgainstModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.directory = tempfile.TemporaryDirectory()
        self.url = f"sqlite:///{self.directory.name}/registry.db"
        self.ids: set[int] = set()
        self.model = {name: ModelAdapter() for name in ("sql", "poet")}
        self.named: dict[FineTunedName, tuple[str, int]] = {}
        self.stack = AsyncExitStack()
        self.open()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def open(self) -> None:
        self.registry = self.run(self.stack.enter_async_context(Registry.open(self.url)))
        self.follower = self.run(self.stack.enter_async_context(Registry.open(self.url)))

    def teardown(self) -> None:
        self.run(self.stack.aclose())
        self.runner.close()
        self.directory.cleanup()

    def fails_with(self, error: type[PatchbayError], work: Coroutine[Any, Any, Any]) -> PatchbayError:
        try:
            self.run(work)
        except error as raised:
            return raised
        raise AssertionError(f"{error.__name__} was not raised")

    def was_given(self, fine_tuned_name: FineTunedName | None, work: Coroutine[Any, Any, Version]) -> bool:
        """Where the name was given before: see that ``work`` answers with what it means, if that lives."""
        if fine_tuned_name not in self.named:
            return False
        name, number = self.named[fine_tuned_name]
        if number in self.model[name].versions:
            assert self.run(work).name == f"{name}@{number}"
        else:
            self.fails_with(NameTaken, work)
        return True

    def is_checkpoint(self, name: str, number: int) -> bool:
        its_names = [named for named, means in self.named.items() if means == (name, number)]
        return bool(its_names) and all(named.is_checkpoint for named in its_names)

    @rule(name=names, alias=st.none() | aliases, fine_tuned_name=st.none() | checkpoints)
    def upload(self, name: str, alias: str | None, fine_tuned_name: FineTunedName | None) -> None:
        work = self.registry.add_version(
            name,
            digest="0" * 64,
            base_fingerprint="base",
            rank=8,
            size_bytes=1,
            source="upload",
            report={},
            alias=alias,
            fine_tuned_name=fine_tuned_name,
        )
        if self.was_given(fine_tuned_name, work):
            return
        version = self.run(work)
        known = self.model[name]
        assert version.number == known.next_version
        assert version.id not in self.ids
        self.ids.add(version.id)
        wanted = {alias} if alias else set()
        if fine_tuned_name is not None:
            self.named[fine_tuned_name] = (name, version.number)
        elif all(self.is_checkpoint(name, number) for number in known.versions):
            wanted.add("stable")
        known.is_living = True
        known.next_version += 1
        known.versions[version.number] = False
        for moved in wanted:
            known.point(moved, version.number)

    @rule(name=names, number=numbers, fine_tuned_name=results, alias=aliases)
    def name_result(self, name: str, number: int, fine_tuned_name: FineTunedName, alias: str) -> None:
        known = self.model[name]
        work = self.registry.name_result(name, number, fine_tuned_name, alias=alias, report={})
        if self.was_given(fine_tuned_name, work):
            return
        if not known.is_living:
            self.fails_with(AdapterNotFound, work)
        elif number not in known.versions:
            self.fails_with(VersionNotFound, work)
        else:
            assert self.run(work).number == number
            self.named[fine_tuned_name] = (name, number)
            known.point(alias, number)

    @rule(
        name=names,
        alias=aliases,
        number=numbers,
        expected=st.just(UNSET) | st.none() | numbers,
        generation=st.just(UNSET) | numbers,
    )
    def move(self, name: str, alias: str, number: int, expected: Any, generation: Any) -> None:
        known = self.model[name]
        work = self.registry.move_alias(name, alias, number, expected=expected, generation=generation)
        current = known.pointers.get(alias)
        current_generation = known.generations[alias] if current else None
        if not known.is_living:
            self.fails_with(AdapterNotFound, work)
        elif (expected is not UNSET and expected != current) or (
            generation is not UNSET and generation != current_generation
        ):
            lost = self.fails_with(AliasMoved, work)
            assert lost.details == {"current": {"version": current, "generation": current_generation}}
        elif number not in known.versions:
            self.fails_with(VersionNotFound, work)
        else:
            moved = self.run(work)
            known.point(alias, number)
            assert (moved.version, moved.generation) == (number, known.generations[alias])

    @rule(name=names, alias=aliases)
    def rollback(self, name: str, alias: str) -> None:
        known = self.model[name]
        work = self.registry.rollback(name, alias)
        if not known.is_living:
            self.fails_with(AdapterNotFound, work)
        elif alias not in known.pointers:
            self.fails_with(AliasNotFound, work)
        else:
            back = list(known.back[alias])
            while back and (back[-1] == known.pointers[alias] or back[-1] not in known.versions):
                back.pop()
            if not back:
                self.fails_with(VersionNotFound, work)
                return
            assert self.run(work).version == back[-1]
            known.back[alias] = back
            known.pointers[alias] = back[-1]
            known.generations[alias] += 1

    @rule(name=names, alias=aliases)
    def delete_alias(self, name: str, alias: str) -> None:
        known = self.model[name]
        work = self.registry.delete_alias(name, alias)
        if not known.is_living:
            self.fails_with(AdapterNotFound, work)
        elif alias not in known.pointers:
            self.fails_with(AliasNotFound, work)
        else:
            self.run(work)
            known.drop(alias)

    @rule(name=names, number=numbers, is_pinned=st.booleans())
    def pin(self, name: str, number: int, is_pinned: bool) -> None:
        known = self.model[name]
        work = self.registry.set_pinned(name, number, is_pinned)
        if not known.is_living:
            self.fails_with(AdapterNotFound, work)
        elif number not in known.versions:
            self.fails_with(VersionNotFound, work)
        else:
            assert self.run(work).is_pinned == is_pinned
            known.versions[number] = is_pinned

    @rule(name=names, number=numbers, with_aliases=st.booleans())
    def delete_version(self, name: str, number: int, with_aliases: bool) -> None:
        known = self.model[name]
        work = self.registry.delete_version(name, number, with_aliases=with_aliases)
        pointing = [alias for alias, to in known.pointers.items() if to == number]
        if not known.is_living:
            self.fails_with(AdapterNotFound, work)
        elif number not in known.versions:
            self.fails_with(VersionNotFound, work)
        elif known.versions[number] or (pointing and not with_aliases):
            self.fails_with(VersionInUse, work)
        else:
            self.run(work)
            del known.versions[number]
            for alias in pointing:
                known.drop(alias)

    @rule(name=names)
    def delete_adapter(self, name: str) -> None:
        known = self.model[name]
        work = self.registry.delete_adapter(name)
        if not known.is_living:
            self.fails_with(AdapterNotFound, work)
            return
        self.run(work)
        known.is_living = False
        known.versions.clear()
        for alias in list(known.pointers):
            known.drop(alias)

    @rule()
    def reopen(self) -> None:
        self.run(self.stack.aclose())
        self.open()

    @invariant()
    def both_catalogs_agree_with_the_model(self) -> None:
        self.run(self.follower.refresh())
        expected = {
            name: (known.versions, {alias: (to, known.generations[alias]) for alias, to in known.pointers.items()})
            for name, known in self.model.items()
            if known.is_living
        }
        for registry in (self.registry, self.follower):
            assert expected == {
                adapter.name: (
                    {number: version.is_pinned for number, version in adapter.versions.items()},
                    {alias.name: (alias.version, alias.generation) for alias in adapter.aliases.values()},
                )
                for adapter in registry.catalog
            }
            assert {v.name for v in registry.catalog.pinned()} == {
                f"{name}@{number}"
                for name, known in self.model.items()
                for number, is_pinned in known.versions.items()
                if is_pinned
            }
            self.fine_tuned_names_agree(registry)

    def fine_tuned_names_agree(self, registry: Registry) -> None:
        living = {named: means for named, means in self.named.items() if means[1] in self.model[means[0]].versions}
        assert living == {
            FineTunedName(named): (adapter.name, number)
            for adapter in registry.catalog
            for named, number in adapter.fine_tuned.items()
        }
        for named in self.named:
            if named in living:
                version = registry.catalog.resolve(named)
                assert version is registry.catalog.version(*living[named])
            else:
                with pytest.raises(AdapterNotFound):
                    registry.catalog.resolve(named)


TestRegistryAgainstModel = RegistryAgainstModel.TestCase
TestRegistryAgainstModel.settings = settings(
    max_examples=10, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
