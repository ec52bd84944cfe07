"""Requests that wait for their turn: the fake engine has four slots, and a stream holds one until it was read."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from server.residency.quarantine import QuarantineReason
from tests.server.opened import Caller, Opened, Opening
from tests.until import Until

NAMES = ("one", "two", "three", "four", "five")
SLOTS = 4


@pytest.fixture
def waiting(opened: Opened) -> Callable[[], int]:
    """How many generations wait for their turn, as Prometheus sees it."""
    return lambda: int(opened.state.metrics.registry.get_sample_value("patchbay_turns_waiting"))


@pytest.fixture
async def crowded(opened: Opened) -> list[Caller]:
    """Five adapters, and a stream on each of the first four: no slot is free."""
    for seed, name in enumerate(NAMES):
        await opened.publish(name, seed)
    streams = [opened.call(name) for name in NAMES[:SLOTS]]
    for stream in streams:
        await stream.start()
        await stream.message()
    return streams


async def test_a_request_without_a_slot_waits_until_one_is_free(
    opened: Opened, crowded: list[Caller], waiting: Callable[[], int], until: Until
) -> None:
    late = asyncio.ensure_future(opened.answer("five"))
    await until(lambda: waiting() == 1)
    assert opened.state.metrics.registry.get_sample_value("patchbay_active_adapters") == SLOTS
    assert [await opened.answer(name) for name in ("base", "one")] == ["base", "one@1"]
    assert not late.done()
    await crowded[2].rest()
    assert await late == "five@1"
    observed = opened.state.metrics.registry.get_sample_value
    assert observed("patchbay_turn_wait_seconds_sum", {"adapter": "five"}) > 0
    assert waiting() == 0


async def test_a_client_that_leaves_while_it_waits_leaves_nothing(
    opened: Opened, crowded: list[Caller], waiting: Callable[[], int], until: Until
) -> None:
    late = opened.call("five")
    await late.start()
    await until(lambda: waiting() == 1)
    await late.leave()
    assert waiting() == 0
    assert opened.residents["five@1"] == ("resident", 0)


async def test_those_who_wait_for_an_engine_that_dies_are_told_to_come_again(
    opened: Opened, crowded: list[Caller], waiting: Callable[[], int], until: Until
) -> None:
    late = asyncio.ensure_future(opened.chat("five"))
    await until(lambda: waiting() == 1)
    opened.engine.die()
    refused = await late
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_not_ready")
    await opened.until_ready()
    assert await opened.answer("five") == "five@1"


async def test_a_version_that_is_quarantined_while_its_requests_wait_answers_none_of_them(
    opened: Opened, crowded: list[Caller], waiting: Callable[[], int], until: Until
) -> None:
    late = asyncio.ensure_future(opened.chat("five"))
    await until(lambda: waiting() == 1)
    version = opened.state.registry.catalog.version("five", 1)
    opened.state.engine.serving().residency.quarantine(version, QuarantineReason.NAN)
    await crowded[0].rest()
    assert (await late).json()["error"]["code"] == "adapter_quarantined"


async def test_a_drain_lets_those_who_wait_have_their_turn(
    opened: Opened, crowded: list[Caller], waiting: Callable[[], int], until: Until
) -> None:
    late = asyncio.ensure_future(opened.answer("five"))
    await until(lambda: waiting() == 1)
    draining = asyncio.ensure_future(opened.state.admission.drain(20))
    for stream in crowded:
        await stream.rest()
    assert await late == "five@1"
    assert await draining


async def test_a_probe_takes_its_turn_among_the_adapters(
    opened: Opened, crowded: list[Caller], waiting: Callable[[], int], until: Until
) -> None:
    publishing: Awaitable[Any] = asyncio.ensure_future(opened.publish("six", 6))
    await until(lambda: waiting() == 1)
    await crowded[1].rest()
    assert (await publishing)["id"] == "six@1"


async def test_an_adapter_that_had_its_share_leaves_room_for_others(opening: Opening) -> None:
    async with opening(max_in_flight=4) as opened:
        for seed, name in enumerate(("sql", "poet")):
            await opened.publish(name, seed)
        flood = [opened.call("sql") for _ in range(3)]
        for stream in flood:
            await stream.start()
        refused = await opened.chat("sql")
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "overloaded")
        assert "'sql'" in refused.json()["error"]["message"]
        assert int(refused.headers["retry-after"]) > 0
        assert await opened.answer("poet") == "poet@1"
        await flood[0].rest()
        assert await opened.answer("sql") == "sql@1"
