"""What a cold adapter costs: its own caller, and everybody who is being answered meanwhile.

Neighbours stream long answers from one adapter. Visitors come one by one, at fixed times, for one short answer each:
first always from the same second adapter (the hot control), then each from an adapter that is in nobody's memory,
because more of them take turns than are held. What a visitor takes from the neighbours beyond what the hot one takes
is the load.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator, Mapping
from typing import Annotated

import typer

from bench.interval import mean, quantile, ratio
from bench.load import Client, Load
from bench.options import RESULTS, Bench, EngineFlag, Out, Peer, Rank, Repeats, ShapeName, conduct
from bench.run import Row
from bench.target import Kind, Target
from bench.versus import alternating, row, show
from bench.workload import Ask, Lengths, Popularity, Workload

SLOTS = 4
RESIDENTS = 4
STREAM_TOKENS = 48
VISIT_TOKENS = 2
LEAD_S = 1.0
"""Neighbours are being answered before the first visitor comes."""

Neighbours = Annotated[int, typer.Option(min=1, help="Streams that are open all the while.")]
Visits = Annotated[int, typer.Option(min=1, help="Of each kind, in each repeat.")]
Every = Annotated[float, typer.Option(help="Seconds from one visit to the next.")]


def cold(
    *,
    peer: Peer = None,
    shape: ShapeName = "100m",
    rank: Rank = 64,
    neighbours: Neighbours = 4,
    visits: Visits = 8,
    every: Every = 1.0,
    repeats: Repeats = 2,
    engine_flag: EngineFlag = None,
    out: Out = RESULTS,
) -> None:
    """Time to the first token of a cold adapter, and what its neighbours notice of its load."""
    bench = Bench(peer, shape, rank, SLOTS, RESIDENTS, tuple(engine_flag or ()))
    conduct("cold", out, lambda: _measure(bench, neighbours, visits, every, repeats))


async def _measure(bench: Bench, neighbours: int, visits: int, every: float, repeats: int) -> Row:
    async with bench.servers(2 + max(visits, 2 * RESIDENTS)) as (shape, names, targets):
        streams, hot, *others = names
        workload = Workload([streams], Popularity(0), Lengths(16, 16), Lengths(STREAM_TOKENS, STREAM_TOKENS), 0)
        turns = {target.kind: itertools.cycle(others) for target in targets}
        found: dict[str, dict[Kind, list[Load]]] = {}

        async def beside(target: Target, seed: int, visitors: Iterator[str]) -> tuple[Load, Load]:
            draw = Workload([hot], workload.popularity, workload.prompt, Lengths(1, 1), shape.vocabulary)
            asks = [
                Ask(LEAD_S + number * every, next(visitors), ask.prompt, VISIT_TOKENS)
                for number, ask in enumerate(draw.asks(visits, seed=seed))
            ]
            async with Client(target.url) as client:
                return await _beside(client, _for_ever(workload, shape.vocabulary, seed), neighbours, asks)

        for name in ("hot", "cold"):
            met: dict[Kind, list[Load]] = {target.kind: [] for target in targets}

            async def load(target: Target, repeat: int, name: str = name, met: Mapping[Kind, list[Load]] = met) -> Load:
                visitors = turns[target.kind] if name == "cold" else itertools.repeat(hot)
                stayed, visited = await beside(target, repeat, visitors)
                met[target.kind].append(visited)
                return stayed

            await alternating(targets, 1, lambda target, _: _warm(target, [streams, hot], shape.vocabulary))
            found[f"neighbours of {name} visitors"] = await alternating(targets, repeats, load)
            found[f"{name} visitors"] = met
    rows = [row(case, loads) for case, loads in found.items()]
    for measured in rows:
        print(show(measured), flush=True)
    stall = {kind: _stall(found, kind) for kind in bench.kinds}
    print("neighbours' p99 between tokens, cold ÷ hot:", stall)
    return {"shape": bench.shape_name, "rank": bench.rank, "rows": rows, "stall": stall}


async def _warm(target: Target, models: list[str], vocabulary: int) -> Load:
    one = Lengths(4, 4)
    asks = Workload(models, Popularity(0), one, one, vocabulary).asks(8, seed=999)
    async with Client(target.url) as client:
        return await client.closed_loop(asks, 2)


def _for_ever(workload: Workload, vocabulary: int, seed: int) -> Iterator[Ask]:
    drawn = Workload(workload.models, workload.popularity, workload.prompt, workload.answer, vocabulary)
    for number in itertools.count():
        yield from drawn.asks(1, seed=1000 * seed + number)


async def _beside(client: Client, streams: Iterator[Ask], neighbours: int, asks: list[Ask]) -> tuple[Load, Load]:
    """Return the answers to ``neighbours``, who ask until the last visitor has gone, and to the visitors."""
    over = asyncio.Event()
    wanted = itertools.takewhile(lambda _: not over.is_set(), streams)
    stayed = asyncio.create_task(client.closed_loop(wanted, neighbours))
    visited = await client.open_loop(asks)
    over.set()
    return await stayed, visited


def _stall(found: Mapping[str, Mapping[Kind, list[Load]]], kind: Kind) -> Row:
    cold, hot = (
        [load.between_ms for load in found[f"neighbours of {name} visitors"][kind]] for name in ("cold", "hot")
    )
    return {"between_p99": ratio(cold, hot, quantile(0.99)).row(), "between_mean": ratio(cold, hot, mean).row()}
