"""Residents: loaded once, evicted least recently used, never in use."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from adapters.errors import AdapterRefused, BlobCorrupt
from adapters.versions import Version
from server.engine.protocol import LoadFailed, Resident
from server.errors import AdapterQuarantined, EngineNotReady, ResidencyFull
from server.residency.entry import Entry, ResidentState
from server.residency.quarantine import QuarantineReason
from tests.server.residency.rig import BuildRig, MakeVersion, Settle


async def test_fifty_first_leases_at_once_load_once(rig: BuildRig, version: MakeVersion, settle: Settle) -> None:
    it = rig(is_stepped=True)
    waiting = [it.begin(version(1)) for _ in range(50)]
    await settle()
    assert it.engine.loads == ["sql@1"]
    it.engine.finish("load", 1)
    leases = await asyncio.gather(*waiting)
    assert {lease.resident.id for lease in leases} == {1}
    assert it.residency.entries()[0].leases == 50
    for lease in leases:
        lease.release()
    assert (it.engine.loads, it.residency.entries()[0].leases) == (["sql@1"], 0)


async def test_a_warm_lease_does_not_touch_the_event_loop(rig: BuildRig, version: MakeVersion) -> None:
    it = rig()
    await it.touch(version(1))
    with pytest.raises(StopIteration) as finished:  # a coroutine that ends in its first step never waited
        it.residency.lease(version(1)).send(None)
    assert finished.value.value.version.name == "sql@1"


async def test_the_least_recently_used_goes_first(rig: BuildRig, version: MakeVersion) -> None:
    it = rig(capacity=3)
    one, two, three, four, five = map(version, range(1, 6))
    await it.touch(one, two, three, one)
    await it.touch(four)
    await it.touch(five)
    assert it.engine.unloads == ["sql@2", "sql@3"]
    assert it.loaded == {1, 4, 5}


async def test_a_held_version_is_never_evicted(rig: BuildRig, version: MakeVersion) -> None:
    it = rig(capacity=2)
    held = await it.residency.lease(version(1))
    await it.touch(version(2), version(3), version(4))
    assert it.engine.unloads == ["sql@2", "sql@3"]
    assert 1 in it.loaded
    held.release()
    await it.touch(version(5))
    assert it.engine.unloads[-1] == "sql@1"


async def test_a_pinned_version_is_never_evicted_until_it_is_let_go(rig: BuildRig, version: MakeVersion) -> None:
    it = rig(capacity=2)
    it.pins.add(1)
    await it.touch(version(1), version(2), version(3))
    assert it.loaded == {1, 3}
    it.pins.clear()
    await it.touch(version(4))
    assert it.loaded == {3, 4}


async def test_pins_that_fill_every_room_give_up_the_least_recently_used(rig: BuildRig, version: MakeVersion) -> None:
    it = rig(capacity=2, wait_s=5)
    it.pins.update({1, 2})
    await it.touch(version(1), version(2), version(3))
    assert it.loaded == {2, 3}


async def test_a_large_adapter_takes_the_room_of_several_small_ones(rig: BuildRig, version: MakeVersion) -> None:
    it = rig(capacity=10, max_bytes=3000)
    await it.touch(version(1), version(2), version(3), version(4, size_bytes=2000))
    assert it.loaded == {3, 4}
    assert (it.count("patchbay_residents"), it.count("patchbay_resident_bytes")) == (2, 3000)


async def test_an_adapter_larger_than_all_room_is_resident_alone(rig: BuildRig, version: MakeVersion) -> None:
    it = rig(capacity=10, max_bytes=3000)
    await it.touch(version(1), version(2, size_bytes=5000))
    assert it.loaded == {2}
    await it.touch(version(3))
    assert it.loaded == {3}


async def test_a_project_that_has_its_bytes_evicts_its_own_and_no_other(rig: BuildRig, version: MakeVersion) -> None:
    it = rig(capacity=9, project_limit=2000)
    await it.touch(version(1, "sql"), version(2, "json"), version(3, "sql"), version(4, "sql"))
    assert it.loaded == {2, 3, 4}


async def test_a_project_whose_bytes_are_all_in_use_waits_and_the_others_do_not(
    rig: BuildRig, version: MakeVersion, settle: Settle
) -> None:
    it = rig(capacity=9, project_limit=2000, wait_s=0.05)
    held = [await it.residency.lease(version(number, "sql")) for number in (1, 2)]
    with pytest.raises(ResidencyFull, match="the adapter's project"):
        await it.residency.lease(version(3, "sql"))
    await it.touch(version(4, "json"))
    waiting = it.begin(version(3, "sql"))
    await settle()
    held[0].release()
    assert (await waiting).version.id == 3
    assert it.loaded == {2, 3, 4}


async def test_an_adapter_larger_than_its_projects_bytes_is_its_only_resident(
    rig: BuildRig, version: MakeVersion
) -> None:
    it = rig(capacity=9, project_limit=2000)
    await it.touch(version(1, "json"), version(2, "sql"), version(3, "sql", 5000))
    assert it.loaded == {1, 3}
    await it.touch(version(4, "sql"))
    assert it.loaded == {1, 4}


async def test_pins_that_fill_all_bytes_give_up_the_least_recently_used(rig: BuildRig, version: MakeVersion) -> None:
    it = rig(capacity=10, max_bytes=2000, wait_s=5)
    it.pins.update({1, 2})
    await it.touch(version(1), version(2), version(3))
    assert it.loaded == {2, 3}


async def test_warming_stops_where_room_ends_and_evicts_nothing_for_what_was_used_longer_ago(
    rig: BuildRig, version: MakeVersion
) -> None:
    it = rig(capacity=10, max_bytes=2500)
    await it.residency.warm([version(1), version(2), version(3), version(4, size_bytes=400)])
    assert it.loaded == {1, 2, 4}
    assert it.count("patchbay_adapter_evictions_total") == 0


async def test_no_room_is_said_after_the_wait_and_leaves_nothing_behind(rig: BuildRig, version: MakeVersion) -> None:
    it = rig(capacity=1, wait_s=0.01)
    held = await it.residency.lease(version(1))
    with pytest.raises(ResidencyFull, match="all 1 residents are pinned or in use"):
        await it.residency.lease(version(2))
    assert it.states == {"sql@1": "resident"}
    assert it.engine.loads == ["sql@1"]
    assert it.count("patchbay_adapter_load_failures_total") == 0
    held.release()
    await it.touch(version(2))
    assert it.loaded == {2}


async def test_a_cold_lease_gets_the_room_of_the_first_lease_that_comes_back(
    rig: BuildRig, version: MakeVersion, settle: Settle
) -> None:
    it = rig(capacity=1)
    held = await it.residency.lease(version(1))
    cold = it.begin(version(2))
    await settle()
    assert not cold.done()
    held.release()
    assert (await cold).version.name == "sql@2"


async def test_unpinning_makes_room_once_anything_moves(rig: BuildRig, version: MakeVersion, settle: Settle) -> None:
    it = rig(capacity=2)
    it.pins.add(1)
    await it.touch(version(1))
    held = await it.residency.lease(version(2))
    cold = it.begin(version(3))
    await settle()
    it.pins.clear()
    held.release()
    assert (await cold).version.name == "sql@3"


async def test_releasing_twice_counts_once(rig: BuildRig, version: MakeVersion) -> None:
    it = rig()
    first, second = [await it.residency.lease(version(1)) for _ in range(2)]
    first.release()
    first.release()
    assert it.residency.entries()[0].leases == 1
    second.release()
    assert it.residency.entries()[0].leases == 0


async def test_an_unload_waits_for_the_last_lease(rig: BuildRig, version: MakeVersion, settle: Settle) -> None:
    it = rig()
    held = await it.residency.lease(version(1))
    assert await it.residency.unload(version(1)) is ResidentState.DRAINING
    assert it.loaded == {1}
    held.release()
    await settle()
    assert (it.loaded, it.states) == (set(), {})


async def test_a_new_lease_during_a_drain_is_served_and_does_not_end_it(
    rig: BuildRig, version: MakeVersion, settle: Settle
) -> None:
    it = rig()
    first = await it.residency.lease(version(1))
    await it.residency.unload(version(1))
    second = await it.residency.lease(version(1))
    first.release()
    assert it.states == {"sql@1": "draining"}
    second.release()
    await settle()
    assert it.states == {}


async def test_a_load_calls_a_drain_off(rig: BuildRig, version: MakeVersion, settle: Settle) -> None:
    it = rig()
    lease = await it.residency.lease(version(1))
    await it.residency.unload(version(1))
    await it.residency.load(version(1))
    lease.release()
    await settle()
    assert it.states == {"sql@1": "resident"}
    assert it.engine.unloads == []


async def test_a_lease_during_an_unload_waits_and_loads_again(
    rig: BuildRig, version: MakeVersion, settle: Settle
) -> None:
    it = rig()
    await it.touch(version(1))
    it.knobs.is_stepped = True
    unloading = asyncio.ensure_future(it.residency.unload(version(1)))
    await settle()
    leasing = it.begin(version(1))
    await settle()
    assert it.engine.loads == ["sql@1"]
    it.knobs.is_stepped = False
    it.engine.finish_all()
    assert await unloading is None
    assert (await leasing).version.name == "sql@1"
    assert it.engine.loads == ["sql@1", "sql@1"]


async def test_an_unload_of_what_is_absent_does_nothing(rig: BuildRig, version: MakeVersion) -> None:
    it = rig()
    assert await it.residency.unload(version(1)) is None
    assert it.engine.unloads == []


async def test_an_unload_while_loading_takes_effect_after_the_load(
    rig: BuildRig, version: MakeVersion, settle: Settle
) -> None:
    it = rig(is_stepped=True)
    leasing = it.begin(version(1))
    await settle()
    unloading = asyncio.ensure_future(it.residency.unload(version(1)))
    await settle()
    it.knobs.is_stepped = False
    it.engine.finish("load", 1)
    assert await unloading is ResidentState.DRAINING
    (await leasing).release()
    await settle()
    assert (it.loaded, it.states) == (set(), {})


async def test_a_refused_load_leaves_nothing_and_the_next_lease_loads_again(
    rig: BuildRig, version: MakeVersion
) -> None:
    it = rig(capacity=1)
    it.knobs.load_errors["sql@1"] = LoadFailed("spoiled")
    with pytest.raises(AdapterRefused, match="spoiled"):
        await it.residency.lease(version(1))
    assert (it.states, it.loaded) == ({}, set())
    it.knobs.load_errors.clear()
    await it.touch(version(1))
    assert it.engine.loads == ["sql@1", "sql@1"]
    assert it.count("patchbay_adapter_load_failures_total") == 1


async def test_a_refused_load_tells_callers_no_path_of_the_server(rig: BuildRig, version: MakeVersion) -> None:
    it = rig()
    it.knobs.load_errors["sql@1"] = LoadFailed("rank 64/layer in '/data/blobs/ab/c.safetensors' (/lib/vllm): no")
    with capture_logs() as lines, pytest.raises(AdapterRefused) as refused:
        await it.residency.lease(version(1))
    assert "rank 64/layer in '…' (…): no" in refused.value.message
    assert any("/data/blobs" in line.get("reason", "") for line in lines)


async def test_damaged_bytes_never_reach_the_engine(rig: BuildRig, version: MakeVersion) -> None:
    it = rig(capacity=1)
    it.corrupt.add(version(1).digest)
    with pytest.raises(BlobCorrupt):
        await it.residency.lease(version(1))
    assert (it.engine.loads, it.states) == ([], {})
    await it.touch(version(2))


async def test_everyone_who_waits_learns_of_a_failed_load(rig: BuildRig, version: MakeVersion, settle: Settle) -> None:
    it = rig(is_stepped=True)
    it.knobs.load_errors["sql@1"] = LoadFailed("spoiled")
    waiting = [it.begin(version(1)) for _ in range(3)]
    await settle()
    it.engine.finish("load", 1)
    errors = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(error) for error in errors] == [AdapterRefused] * 3


async def test_an_error_that_nobody_foresaw_reaches_those_who_wait(rig: BuildRig, version: MakeVersion) -> None:
    it = rig(capacity=1)
    it.knobs.load_errors["sql@1"] = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(it.residency.lease(version(1)), 1)
    assert it.states == {}
    await it.touch(version(2))


async def test_an_engine_that_dies_during_a_load_says_try_again(
    rig: BuildRig, version: MakeVersion, settle: Settle
) -> None:
    it = rig(is_stepped=True)
    waiting = [it.begin(version(1)), it.begin(version(2))]
    await settle()
    it.engine.die()
    errors = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(error) for error in errors] == [EngineNotReady] * 2
    assert it.states == {}


async def test_an_unload_from_a_dead_engine_is_an_unload(rig: BuildRig, version: MakeVersion) -> None:
    it = rig()
    await it.touch(version(1))
    it.engine.die()
    assert await it.residency.unload(version(1)) is None
    assert it.states == {}


async def test_more_cold_loads_than_room_all_get_their_turn(rig: BuildRig, version: MakeVersion) -> None:
    it = rig(capacity=2)

    async def request(number: int) -> str:
        lease = await it.residency.lease(version(number))
        await asyncio.sleep(0)
        lease.release()
        return lease.version.name

    names = await asyncio.gather(*(request(number % 10 + 1) for number in range(60)))
    assert set(names) == {f"sql@{number}" for number in range(1, 11)}
    assert len(it.loaded) == 2


async def test_a_client_that_leaves_during_a_cold_start_leaves_no_lease(
    rig: BuildRig, version: MakeVersion, settle: Settle
) -> None:
    it = rig(is_stepped=True)
    leaving, staying = it.begin(version(1)), it.begin(version(1))
    await settle()
    leaving.cancel()
    await settle()
    it.engine.finish("load", 1)
    (await staying).release()
    assert leaving.cancelled()
    assert it.residency.entries()[0].leases == 0


async def test_a_trial_is_loaded_for_the_block_and_leaves_nothing(rig: BuildRig, files: Path) -> None:
    it = rig()
    async with it.residency.trial(Resident(7, "trial@7", files)) as engine:
        assert (engine, engine.residents.keys(), it.states) == (it.engine, {7}, {})
    assert (it.engine.loads, it.engine.unloads, it.loaded) == (["trial@7"], ["trial@7"], set())


async def test_a_trial_that_the_engine_refuses_has_nothing_to_unload(rig: BuildRig, files: Path) -> None:
    it = rig()
    it.knobs.load_errors["trial@8"] = LoadFailed("spoiled")
    with pytest.raises(AdapterRefused, match="spoiled"):
        async with it.residency.trial(Resident(8, "trial@8", files)):
            raise AssertionError
    it.engine.die()
    with pytest.raises(EngineNotReady):
        async with it.residency.trial(Resident(9, "trial@9", files)):
            raise AssertionError
    assert it.engine.unloads == []


async def test_a_trial_called_off_while_it_loads_leaves_nothing(rig: BuildRig, settle: Settle, files: Path) -> None:
    it = rig(is_stepped=True)

    async def try_out() -> None:
        async with it.residency.trial(Resident(7, "trial@7", files)):
            raise AssertionError

    trying = asyncio.ensure_future(try_out())
    await settle()
    trying.cancel()
    await settle()
    it.engine.finish("load", 7)
    await settle()
    it.engine.finish("unload", 7)
    with pytest.raises(asyncio.CancelledError):
        await trying
    assert it.loaded == set()


async def test_closing_releases_those_who_wait(rig: BuildRig, version: MakeVersion, settle: Settle) -> None:
    it = rig(capacity=1, is_stepped=True)
    loading, waiting = it.begin(version(1)), it.begin(version(2))
    await settle()
    await it.residency.close()
    for task in (loading, waiting):
        with pytest.raises(EngineNotReady):
            await asyncio.wait_for(task, 1)


async def test_closing_releases_those_whose_load_has_not_begun(rig: BuildRig, version: MakeVersion) -> None:
    it = rig(is_stepped=True)
    leasing = it.begin(version(1))
    await asyncio.sleep(0)  # the lease has asked for the load; the load has not run
    assert it.engine.loads == []
    await it.residency.close()
    with pytest.raises(EngineNotReady):
        await asyncio.wait_for(leasing, 1)


async def test_warming_goes_on_past_what_cannot_be_loaded(rig: BuildRig, version: MakeVersion) -> None:
    it = rig(capacity=4)
    one, two, three, four, five = map(version, range(1, 6))
    it.knobs.load_errors[one.name] = LoadFailed("spoiled")
    it.corrupt.add(two.digest)
    assert await it.residency.warm([one, two, three, four, five]) == [one, two]
    assert it.states == {three.name: "resident", four.name: "resident"}


async def test_warming_a_dead_engine_is_no_success(rig: BuildRig, version: MakeVersion) -> None:
    it = rig()
    it.engine.die()
    with pytest.raises(EngineNotReady):
        await it.residency.warm([version(1)])


async def test_loads_evictions_and_residents_are_counted(rig: BuildRig, version: MakeVersion) -> None:
    it = rig(capacity=2)
    await it.touch(version(1), version(2), version(3))
    assert it.count("patchbay_adapter_load_seconds_count") == 3
    assert it.count("patchbay_adapter_evictions_total") == 1
    assert it.count("patchbay_residents") == 2
    await it.residency.unload(version(3))
    assert it.count("patchbay_residents") == 1
    assert it.count("patchbay_adapter_evictions_total") == 1


async def test_an_entry_moves_only_as_drawn(version: Callable[[int], Version]) -> None:
    entry = Entry(version(1))
    with pytest.raises(AssertionError, match="from loading to draining"):
        entry.become(ResidentState.DRAINING)
    entry.become(ResidentState.RESIDENT)
    assert entry.state is ResidentState.RESIDENT


async def test_a_quarantined_version_is_refused_and_goes_with_its_last_lease(
    rig: BuildRig, version: MakeVersion
) -> None:
    it = rig()
    lease = await it.residency.lease(version(1))
    refusal = it.residency.quarantine(version(1), QuarantineReason.NAN)
    assert "sql@1 is quarantined" in refusal.message
    for held in (True, False):
        for asked in (it.residency.lease, it.residency.load):
            with pytest.raises(AdapterQuarantined):
                await asked(version(1))
        if held:
            assert version(1) in it.residency.quarantined
            lease.release()
    await it.touch(version(2))
    assert it.states == {"sql@2": "resident"}
    assert it.loaded == {2}
