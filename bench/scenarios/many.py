"""Many adapters, few slots: what is left of the throughput when each request may name another adapter."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, NamedTuple

import typer

from bench.options import (
    RESULTS,
    AnswerTokens,
    Bench,
    EngineFlag,
    Out,
    Peer,
    Prompt,
    Rank,
    Repeats,
    Residents,
    ShapeName,
    conduct,
    say,
    words,
)
from bench.record import Row
from bench.versus import alternating, asking, row
from bench.workload import Workload

SlotCounts = Annotated[
    list[int], typer.Option("--slots", min=1, help="Adapters that can share a batch; new servers for each.")
]
Adapters = Annotated[list[int], typer.Option(min=0, help="How many are asked; 0: the base alone.")]
Shares = Annotated[str, typer.Option("--popularity", help="How often each is asked: zipf, zipf:1.2 or uniform.")]
Requests = Annotated[int, typer.Option(min=1, help="Of each load.")]
Clients = Annotated[int, typer.Option(min=1, help="That each wait for an answer before they ask again.")]
Rate = Annotated[float | None, typer.Option(help="Requests a second by a Poisson process, instead of waiting clients.")]


def many(
    *,
    peer: Peer = None,
    shape: ShapeName = "100m",
    rank: Rank = 8,
    slots: SlotCounts = [8],  # noqa: B006 - typer copies it
    residents: Residents = 64,
    adapters: Adapters = [0, 1, 8, 64],  # noqa: B006 - typer copies it
    popularity: Shares = "zipf",
    clients: Clients = 32,
    rate: Rate = None,
    requests: Requests = 64,
    repeats: Repeats = 2,
    prompt: Prompt = "16",
    answer: AnswerTokens = "16",
    engine_flag: EngineFlag = None,
    out: Out = RESULTS,
) -> None:
    """Requests over 1 to 1000 adapters: throughput and latency, by how many there are."""
    benches = [Bench(peer, shape, rank, number, residents, tuple(engine_flag or ())) for number in slots]
    asked, loading = words(prompt, answer, popularity), Loading(clients, rate, requests, repeats)
    conduct("many", out, lambda: measure(benches, adapters, asked, loading))


class Loading(NamedTuple):
    """How a load is put on a server."""

    clients: int
    rate: float | None
    requests: int
    repeats: int


async def measure(benches: list[Bench], counts: list[int], asked: Workload, loading: Loading) -> Row:
    """Put the load on both servers, for each number of slots and of adapters."""
    rows: list[Row] = []
    for bench in benches:
        async with bench.servers(max(counts)) as (shape, names, targets, _):
            for count in counts:
                workload = replace(asked, models=names[:count] or ["base"], vocabulary=shape.vocabulary)
                load = asking(workload, loading.requests, clients=loading.clients, rate=loading.rate)
                loads = await alternating(targets, loading.repeats, load)
                case = f"{count} adapters" if count else "base"
                say(rows, row(f"{case}, {bench.slots} slots", loads, adapters=count, slots=bench.slots))
    return {**benches[0].facts, "slots": [bench.slots for bench in benches], "rows": rows}
