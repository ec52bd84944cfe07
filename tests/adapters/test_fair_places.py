"""Places go to projects in turns, and none is lost when a caller leaves."""

from __future__ import annotations

import asyncio

from adapters.fair_places import FairPlaces


async def test_projects_take_turns_however_many_places_one_of_them_waits_for() -> None:
    places, order = FairPlaces(1), []

    async def work(project: str) -> None:
        async with places.place(project):
            order.append(project)
            await asyncio.sleep(0)

    await asyncio.gather(*(work(project) for project in ["acme"] * 5 + ["globex"] * 2 + ["third"]))
    assert order == ["acme", "acme", "globex", "third", "acme", "globex", "acme", "acme"]


async def test_a_project_with_fewer_places_is_first() -> None:
    places, order = FairPlaces(2), []

    async def work(project: str) -> None:
        async with places.place(project):
            order.append(project)

    async with places.place("acme"):
        async with places.place("globex"):
            waiting = asyncio.gather(work("acme"), work("third"))
            await asyncio.sleep(0)
        await waiting
    assert order == ["third", "acme"]


async def test_callers_that_leave_at_any_moment_give_their_places_back() -> None:
    places = FairPlaces(1)

    async def work(project: str, until: asyncio.Event) -> None:
        async with places.place(project):
            await until.wait()

    for steps in range(8):
        end, never = asyncio.Event(), asyncio.Event()
        holder = asyncio.create_task(work("acme", end))
        leavers = [asyncio.create_task(work(project, never)) for project in ("acme", "globex")]
        end.set() if steps % 2 else None
        for _ in range(steps // 2):
            await asyncio.sleep(0)
        for leaver in leavers:
            leaver.cancel()
        end.set()
        await asyncio.gather(holder, *leavers, return_exceptions=True)
        async with asyncio.timeout(5), places.place("globex"):
            pass
