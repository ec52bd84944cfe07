"""What a cold adapter costs: its own caller, and everybody who is being answered meanwhile.

Neighbours stream answers from one adapter. Visitors come one by one, at fixed times, for a short answer each: hot ones
always from the same second adapter (the control), cold ones each from an adapter that is in no memory, because more of
them take turns than are held. What cold visitors cost the neighbours beyond what hot ones cost them is the load.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated

import typer

from bench.interval import ratio
from bench.load import LoadClient, LoadSpec
from bench.options import RESULTS, Bench, EngineFlag, Out, Peer, Rank, Repeats, ShapeName, conduct, say
from bench.record import Row
from bench.target import BenchTarget
from bench.versus import P99, alternating, asking, row
from bench.workload import Ask, Lengths, Workload

SLOTS = 4
RESIDENTS = 4
PROMPT = Lengths(16, 16)
STREAM = Lengths(48, 48)
VISIT = Lengths(2, 2)
VISITORS = ("hot", "cold")
LEAD_S = 1.0
"""Neighbours are being answered before the first visitor comes."""

Neighbours = Annotated[int, typer.Option(min=1, help="Streams that are open all the while.")]
Visits = Annotated[int, typer.Option(min=1, help="Of each kind, in each repeat.")]
Every = Annotated[float, typer.Option(help="Seconds from one visit to the next.")]

Meeting = tuple[LoadSpec, LoadSpec]
"""What neighbours and visitors saw."""


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
    conduct("cold", out, lambda: measure(bench, neighbours, [LEAD_S + every * n for n in range(visits)], repeats))


async def measure(bench: Bench, neighbours: int, visits_at_s: list[float], repeats: int) -> Row:
    """Let hot visitors come, then cold ones."""
    rows: list[Row] = []
    async with bench.servers(2 + max(len(visits_at_s), 2 * RESIDENTS)) as (shape, names, targets, _):
        stream, hot, *others = names
        words = Workload([stream], prompt=PROMPT, answer=STREAM, vocabulary=shape.vocabulary)
        turns = {target.kind: itertools.cycle(others) for target in targets}

        async def meet(target: BenchTarget, seed: int, models: Iterator[str]) -> Meeting:
            visit = Workload([hot], prompt=PROMPT, answer=VISIT, vocabulary=shape.vocabulary)
            asks = visit.asks(len(visits_at_s), seed=seed)
            visits = [replace(ask, at_s=at_s, model=next(models)) for ask, at_s in zip(asks, visits_at_s, strict=True)]
            async with LoadClient(target.url) as client:
                return await _beside(client, words.for_ever(seed=seed), neighbours, visits)

        async def meetings(target: BenchTarget, repeat: int) -> dict[str, Meeting]:
            found = {}
            for name in VISITORS if repeat % 2 == 0 else reversed(VISITORS):
                seed = repeat * len(VISITORS) + VISITORS.index(name)  # prompts that are in no cache
                found[name] = await meet(target, seed, turns[target.kind] if name == "cold" else itertools.repeat(hot))
            return found

        known = Workload([stream, hot], prompt=PROMPT, answer=VISIT, vocabulary=shape.vocabulary)
        met = await alternating(targets, repeats, meetings, warm_up=asking(known, 8, clients=2))
    for name in VISITORS:
        for which, who in enumerate(("neighbours of", "")):
            loads = {kind: [found[name][which] for found in each] for kind, each in met.items()}
            say(rows, row(f"{who} {name} visitors".strip(), loads))
    stall = {kind: _stall(each) for kind, each in met.items()}
    print("p99 between the neighbours' tokens, cold ÷ hot visitors:", stall)
    return {**bench.facts, "rows": rows, "stall_p99": stall}


async def _beside(client: LoadClient, streams: Iterator[Ask], neighbours: int, visits: list[Ask]) -> Meeting:
    """Let neighbours ask until the last visitor has gone."""
    over = asyncio.Event()
    wanted = itertools.takewhile(lambda _: not over.is_set(), streams)
    stayed = asyncio.create_task(client.closed_loop(wanted, neighbours))
    visited = await client.open_loop(visits)
    over.set()
    return await stayed, visited


def _stall(repeats: Sequence[Mapping[str, Meeting]]) -> list[float]:
    slow, fast = ([found[name][0].between_ms for found in repeats] for name in ("cold", "hot"))
    return ratio(slow, fast, P99).row()
