"""Servers of one database: what one of them moves, the others answer from after their next read, each as a whole."""

from __future__ import annotations

import asyncio

from tests.postgres import on_both_databases
from tests.server.opened import Opened, Opening
from tests.until import Until

VERSIONS = 6
NEVER_S = 3600.0


async def move(opened: Opened, number: int) -> None:
    response = await opened.client.put("/v1/adapters/sql/aliases/stable", json={"version": number})
    assert response.status_code == 200, response.text


async def number_of(opened: Opened) -> int:
    """Return the number of the version that answers, as the response's header names it."""
    response = await opened.chat("sql")
    assert response.status_code == 200, response.text
    name = response.headers["x-patchbay-adapter"]
    assert response.json()["choices"][0]["message"]["content"].split()[0] == name
    return int(name.partition("@")[2])


@on_both_databases
async def test_a_server_that_joins_while_an_alias_moves_never_answers_from_before_its_start(
    opening: Opening, until: Until
) -> None:
    async with opening(follow_interval_s=0.01) as one:
        for seed in range(1, VERSIONS + 1):
            await one.publish("sql", seed)
        moved = 1

        async def keep_moving() -> None:
            nonlocal moved
            for number in range(2, VERSIONS + 1):
                await move(one, number)
                moved = number
                await asyncio.sleep(0.05)

        moving = asyncio.create_task(keep_moving())
        await until(lambda: moved > 1)
        at_start = moved
        async with opening(follow_interval_s=0.01) as two:
            answers = [await number_of(two)]
            while not moving.done():
                answers.append(await number_of(two))
            await moving
            await until(lambda: two.state.registry.catalog.alias("sql", "stable").version == VERSIONS)
            assert await number_of(two) == VERSIONS
    assert answers[0] >= at_start
    assert answers == sorted(answers)


@on_both_databases
async def test_a_moved_alias_is_answered_from_after_the_next_read_and_each_answer_names_its_version(
    opening: Opening,
) -> None:
    async with opening() as one, opening(follow_interval_s=NEVER_S) as two:
        await one.publish("sql", 1)
        await two.state.registry.refresh()
        await one.publish("sql", 2)
        await move(one, 2)
        assert (await number_of(one), await number_of(two)) == (2, 1)
        await two.state.registry.refresh()
        assert await number_of(two) == 2


@on_both_databases
async def test_an_alias_is_shown_with_the_target_of_its_last_move(opening: Opening) -> None:
    async with opening() as one, opening(follow_interval_s=NEVER_S) as two:
        for seed in (1, 2):
            await one.publish("sql", seed)
        await two.state.registry.refresh()
        await move(one, 2)
        shown = (await two.client.get("/v1/adapters/sql/aliases/stable")).json()
        assert (shown["version"], shown["moves"][-1]["to"]) == (2, 2)
