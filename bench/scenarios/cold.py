"""Time to the first token of a cold adapter, and the delay that loading it causes to concurrent requests.

Neighbours, a closed loop of clients, stream answers from one adapter. Visitors are single requests at fixed times with
short answers: hot visitors always name one other adapter (the control), cold visitors each name an adapter that is in
no memory, as more adapters alternate than are held. The difference of the neighbours' delays is the cost of loading.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated

import typer

from bench import options
from bench.comparison import P99, alternate, load_of, row
from bench.interval import ratio
from bench.load import LoadClient, LoadResult
from bench.options import BenchOptions, report_row
from bench.record import Row
from bench.target import BenchTarget
from bench.workload import Lengths, Workload

SLOTS = 4
RESIDENTS = 4
PROMPT = Lengths(16, 16)
STREAM = Lengths(48, 48)
VISIT = Lengths(2, 2)
VISITORS = ("hot", "cold")
LEAD_S = 1.0
"""The neighbours stream for so long before the first visitor."""

Neighbours = Annotated[int, typer.Option(min=1, help="Clients that stream answers throughout.")]
Visits = Annotated[int, typer.Option(min=1, help="Hot, and as many cold, single requests per round.")]
Every = Annotated[float, typer.Option(help="Seconds between two of these requests.")]

NeighboursAndVisitors = tuple[LoadResult, LoadResult]


async def cold(
    *,
    peer: options.Peer = None,
    shape: options.ShapeName = "100m",
    rank: options.Rank = 64,
    neighbours: Neighbours = 4,
    visits: Visits = 8,
    every: Every = 1.0,
    repeats: options.Repeats = 2,
    engine_flag: options.EngineFlag = None,
) -> Row:
    """Time to the first token of a cold adapter, and the delay that its load causes to concurrent requests."""
    bench = BenchOptions(peer, shape, rank, SLOTS, RESIDENTS, engine_flag)
    rows: list[Row] = []
    async with bench.servers(2 + max(visits, 2 * RESIDENTS)) as (base, names, targets, _):
        stream, hot, *others = names
        streams = Workload([stream], prompt=PROMPT, answer=STREAM, vocabulary=base.vocabulary)
        cold_names = {target.kind: itertools.cycle(others) for target in targets}

        async def visit(target: BenchTarget, seed: int, models: Iterator[str]) -> NeighboursAndVisitors:
            drawn = replace(streams, models=[hot], answer=VISIT).requests(visits, seed=seed)
            single = [replace(one, at_s=LEAD_S + every * n, model=next(models)) for n, one in enumerate(drawn)]
            over = asyncio.Event()
            async with LoadClient(target.url) as client:
                streamed = asyncio.create_task(client.closed_loop(streams.endless(seed=seed), neighbours, over.is_set))
                visited = await client.open_loop(single)
                over.set()
                return await streamed, visited

        async def run(target: BenchTarget, repeat: int) -> dict[str, NeighboursAndVisitors]:
            found = {}
            for name in VISITORS if repeat % 2 == 0 else reversed(VISITORS):
                seed = repeat * len(VISITORS) + VISITORS.index(name)  # prompts that are in no prefix cache
                models = cold_names[target.kind] if name == "cold" else itertools.repeat(hot)
                found[name] = await visit(target, seed, models)
            return found

        warm_up = load_of(replace(streams, models=[stream, hot], answer=VISIT), 8, clients=2)
        rounds = await alternate(targets, repeats, run, warm_up=warm_up)
    for name in VISITORS:
        for index, prefix in enumerate(("neighbours of", "")):
            loads = {kind: [found[name][index] for found in each] for kind, each in rounds.items()}
            report_row(rows, row(f"{prefix} {name} visitors".strip(), loads))
    stall = {kind: _stall(each) for kind, each in rounds.items()}
    print("p99 between the neighbours' tokens, cold ÷ hot visitors:", stall)
    return {**bench.facts, "rows": rows, "stall_p99": stall}


def _stall(rounds: Sequence[Mapping[str, NeighboursAndVisitors]]) -> list[float]:
    slow, fast = ([found[name][0].between_ms for found in rounds] for name in ("cold", "hot"))
    return ratio(slow, fast, P99).row()
