"""New grammars are compiled in turns between projects; known ones and free text wait for nothing."""

from __future__ import annotations

import asyncio
from typing import cast

from server.engine.fake import FakeEngine, Knobs
from server.engine.protocol import Engine
from server.gateway.grammar_turns import GrammarTurn, GrammarTurns


def engine() -> Engine:
    return cast("Engine", FakeEngine(None, Knobs(), ("base",)))  # type: ignore[arg-type]  # no request reaches it


ENGINE = engine()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_project_with_many_new_grammars_delays_another_by_one_turn() -> None:
    turns, order = GrammarTurns(at_once=1), []

    async def ask(project: str, grammar: str) -> None:
        turn = await turns.turn(project, grammar, ENGINE)
        order.append(project)
        await asyncio.sleep(0)
        turn.compiled()

    first = await turns.turn("acme", "grammar", ENGINE)
    flood = [asyncio.create_task(ask("acme", f"grammar {number}")) for number in range(9)]
    await settle()
    other = asyncio.create_task(ask("globex", "one"))
    await settle()
    first.compiled()
    await asyncio.gather(*flood, other)
    assert order[:3] == ["acme", "globex", "acme"]


async def test_a_grammar_that_the_engine_has_compiled_waits_for_nothing() -> None:
    turns = GrammarTurns(at_once=1)
    (await turns.turn("acme", "known", ENGINE)).compiled()
    held = await turns.turn("acme", "new", ENGINE)
    async with asyncio.timeout(5):
        for grammar in ("known", None):
            (await turns.turn("globex", grammar, ENGINE)).end()
    waiting = asyncio.create_task(turns.turn("globex", "newer", ENGINE))
    await settle()
    assert not waiting.done()
    held.end()
    (await waiting).end()


async def test_a_request_that_ends_before_its_first_output_gives_its_place_back_and_teaches_nothing() -> None:
    turns = GrammarTurns(at_once=1)
    turn: GrammarTurn = await turns.turn("acme", "too large", ENGINE)
    turn.end()
    turn.end()
    again = await turns.turn("acme", "too large", ENGINE)
    waiting = asyncio.create_task(turns.turn("globex", "one", ENGINE))
    await settle()
    assert not waiting.done()  # the place was given back once, and is taken again
    again.compiled()
    (await waiting).end()


async def test_a_new_engine_knows_no_grammar() -> None:
    turns = GrammarTurns(at_once=1)
    late = await turns.turn("acme", "compiled late", ENGINE)
    late.end()
    (await turns.turn("acme", "known", ENGINE)).compiled()
    another = engine()
    held = await turns.turn("acme", "known", another)
    late.compiled()  # by the engine before
    waiting = asyncio.create_task(turns.turn("globex", "compiled late", another))
    await settle()
    assert not waiting.done()
    held.end()
    (await waiting).end()
