"""Random histories of leases, releases, unloads and pins; the engine's every act ends when the history says so."""

from __future__ import annotations

import asyncio
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from adapters.errors import AdapterRefused
from server.engine.protocol import LoadFailed, Resident
from server.residency.entry import ResidentState
from server.residency.residency import Lease
from tests.server.residency.rig import BuildRig, MakeVersion, Rig, Settle

CAPACITY = 2
numbers = st.integers(1, 5)


class Histories(RuleBasedStateMachine):
    """What the residency says is compared with what the engine was really asked, at every step."""

    build: ClassVar[BuildRig]
    make_version: ClassVar[MakeVersion]
    settle: ClassVar[Settle]

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.rig = self.runner.run(self.built())
        self.versions = {number: type(self).make_version(number) for number in range(1, 6)}
        self.waiting: dict[asyncio.Task[Lease], int] = {}
        self.held: list[Lease] = []
        self.unloads: list[asyncio.Task[ResidentState | None]] = []
        self.may_unload: set[int] = set()

    async def built(self) -> Rig:
        rig = type(self).build(capacity=CAPACITY, is_stepped=True, wait_s=3600)
        unload = rig.engine.unload

        async def checked_unload(resident: Resident) -> None:
            self.check_unload(resident)
            await unload(resident)

        rig.engine.unload = checked_unload
        return rig

    def check_unload(self, resident: Resident) -> None:
        assert resident.id not in {lease.resident.id for lease in self.held}, "unloaded in use"
        if resident.id not in self.may_unload:
            assert resident.id not in self.rig.pins, "a pinned version was evicted"

    def let_run(self) -> None:
        self.runner.run(type(self).settle())
        for task in [task for task in self.waiting if task.done()]:
            number = self.waiting.pop(task)
            if task.cancelled():
                continue
            if task.exception() is not None:
                assert isinstance(task.exception(), AdapterRefused)
                assert self.versions[number].name in self.rig.knobs.load_errors
            else:
                self.held.append(task.result())

    @rule(number=numbers)
    def lease(self, number: int) -> None:
        async def begin() -> None:
            self.waiting[self.rig.begin(self.versions[number])] = number

        self.runner.run(begin())
        self.let_run()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(list(self.waiting))).cancel()
        self.let_run()

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.give_back(data.draw(st.sampled_from(self.held)))
        self.let_run()

    def give_back(self, lease: Lease) -> None:
        self.held.remove(lease)

        async def release() -> None:
            lease.release()

        self.runner.run(release())

    @rule(number=numbers)
    def unload(self, number: int) -> None:
        self.may_unload.add(number)

        async def begin() -> None:
            self.unloads.append(asyncio.ensure_future(self.rig.residency.unload(self.versions[number])))

        self.runner.run(begin())
        self.let_run()

    @rule(number=numbers)
    def pin(self, number: int) -> None:
        if len(self.rig.pins | {number}) < CAPACITY:
            self.rig.pins.add(number)
            if self.rig.residency.state(self.versions[number]) in (None, ResidentState.RESIDENT):
                self.may_unload.discard(number)  # an unload asked for before the pin goes on

    @rule(number=numbers)
    def unpin(self, number: int) -> None:
        self.rig.pins.discard(number)

    @precondition(lambda self: self.rig.engine.pending)
    @rule(data=st.data(), is_refused=st.booleans())
    def finish(self, data: st.DataObject, is_refused: bool) -> None:
        act, number = data.draw(st.sampled_from(sorted(self.rig.engine.pending)))
        name = self.versions[number].name
        self.rig.knobs.load_errors.pop(name, None)
        if is_refused:
            self.rig.knobs.load_errors[name] = LoadFailed("spoiled")
        self.rig.engine.finish(act, number)
        self.let_run()

    @invariant()
    def the_engine_never_holds_more_than_capacity(self) -> None:
        pending = {number for act, number in self.rig.engine.pending if act == "load"}
        assert len(self.rig.loaded | pending) <= CAPACITY

    @invariant()
    def the_residency_and_the_engine_agree(self) -> None:
        views = self.rig.residency.entries()
        assert {view.version.id for view in views if view.state is not ResidentState.LOADING} == self.rig.loaded
        unloading = {view.version.id for view in views if view.state is ResidentState.UNLOADING}
        assert unloading == {number for act, number in self.rig.engine.pending if act == "unload"}

    @invariant()
    def leases_are_those_held_and_those_awaited(self) -> None:
        for view in self.rig.residency.entries():
            number = view.version.id
            held = sum(lease.resident.id == number for lease in self.held)
            awaited = list(self.waiting.values()).count(number)
            assert view.leases == (held if view.state is not ResidentState.LOADING else awaited)

    @invariant()
    def a_held_version_is_loaded(self) -> None:
        for lease in self.held:
            assert lease.resident.id in self.rig.loaded
            assert self.rig.residency.state(lease.version) in {ResidentState.RESIDENT, ResidentState.DRAINING}

    @invariant()
    def a_drain_ends_with_the_last_lease(self) -> None:
        assert all(view.leases for view in self.rig.residency.entries() if view.state is ResidentState.DRAINING)

    def teardown(self) -> None:
        """Everybody who still waits is served in the end, however the history left things."""
        self.rig.pins.clear()
        for _ in range(500):
            if not (self.waiting or self.held or self.rig.engine.pending):
                break
            for lease in list(self.held):
                self.give_back(lease)
            self.rig.engine.finish_all()
            self.let_run()
        assert not self.waiting, "somebody waits for ever"
        assert all(task.done() for task in self.unloads)
        self.runner.run(self.rig.residency.close())
        self.runner.close()


@pytest.mark.filterwarnings("error")
def test_every_history_keeps_the_invariants(rig: BuildRig, version: MakeVersion, settle: Settle) -> None:
    fixtures = {"build": staticmethod(rig), "make_version": staticmethod(version), "settle": staticmethod(settle)}
    machine = type("HistoriesOfThisRig", (Histories,), fixtures)
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
