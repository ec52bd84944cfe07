"""Throughput and latency with more adapters than slots, when each request may name another adapter.

Requests are spread over the adapters by a Zipf distribution; a closed loop of clients, or an open Poisson loop, against
patchbay and stock vLLM in turns, for each number of slots and of adapters.
"""

from dataclasses import replace
from typing import Annotated

import typer

from bench import options
from bench.comparison import alternate, load_of, row
from bench.options import BenchOptions, parse_workload, report_row
from bench.record import Row

SlotCounts = Annotated[
    list[int], typer.Option("--slots", min=1, help="Adapters that can share a batch; new servers for each number.")
]
Adapters = Annotated[list[int], typer.Option(min=0, help="Number of adapters requested; 0: the base model alone.")]
Shares = Annotated[str, typer.Option("--popularity", help="Distribution over adapters: zipf, zipf:1.2 or uniform.")]
Rate = Annotated[float | None, typer.Option(help="Requests per second of an open Poisson loop, instead of clients.")]


async def many(
    *,
    peer: options.PeerOrKeyless = None,
    shape: options.ShapeName = "100m",
    rank: options.Rank = 8,
    slots: SlotCounts = [8],  # noqa: B006 - typer copies it
    residents: options.Residents = 64,
    adapters: Adapters = [0, 1, 8, 64],  # noqa: B006 - typer copies it
    popularity: Shares = "zipf",
    clients: options.Clients = 32,
    rate: Rate = None,
    requests: options.Requests = 64,
    repeats: options.Repeats = 2,
    prompt: options.Prompt = "16",
    answer: options.AnswerTokens = "16",
    engine_flag: options.EngineFlag = None,
) -> Row:
    """Requests over 1 to 1000 adapters: throughput and latency, by the number of adapters."""
    benches = [BenchOptions(peer, shape, rank, number, residents, engine_flag) for number in slots]
    workload = parse_workload(prompt, answer, popularity)
    rows: list[Row] = []
    for bench in benches:
        async with bench.servers(max(adapters)) as (base, names, targets, _):
            for count in adapters:
                workload = replace(workload, models=names[:count] or ["base"], vocabulary=base.vocabulary)
                loads = await alternate(targets, repeats, load_of(workload, requests, clients=clients, rate=rate))
                case = f"{count} adapters" if count else "base"
                report_row(rows, row(f"{case}, {bench.slots} slots", loads, adapters=count, slots=bench.slots))
    return {**benches[0].facts, "slots": slots, "rows": rows}
