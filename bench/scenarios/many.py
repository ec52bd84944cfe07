"""Throughput and latency with more adapters than slots, when each request may name another adapter.

Requests are spread over the adapters by a Zipf distribution; a closed loop of clients, or an open Poisson loop, against
patchbay and stock vLLM in turns, for each number of slots and of adapters.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, NamedTuple

import typer

from bench import options
from bench.comparison import alternate, load_of, row
from bench.options import BenchOptions, parse_workload, report_row, run_scenario
from bench.record import Row
from bench.workload import Workload

SlotCounts = Annotated[
    list[int], typer.Option("--slots", min=1, help="Adapters that can share a batch; new servers for each number.")
]
Adapters = Annotated[list[int], typer.Option(min=0, help="Number of adapters requested; 0: the base model alone.")]
Shares = Annotated[str, typer.Option("--popularity", help="Distribution over adapters: zipf, zipf:1.2 or uniform.")]
Rate = Annotated[float | None, typer.Option(help="Requests per second of an open Poisson loop, instead of clients.")]


def many(
    *,
    peer: options.Peer = None,
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
    out: options.Out = options.RESULTS,
) -> None:
    """Requests over 1 to 1000 adapters: throughput and latency, by the number of adapters."""
    benches = [BenchOptions(peer, shape, rank, number, residents, engine_flag) for number in slots]
    workload, loading = parse_workload(prompt, answer, popularity), Loading(clients, rate, requests, repeats)
    run_scenario("many", out, lambda: measure(benches, adapters, workload, loading))


class Loading(NamedTuple):
    """The size of a load: clients of a closed loop or the rate of an open one, requests per round, rounds."""

    clients: int
    rate: float | None
    requests: int
    repeats: int


async def measure(benches: list[BenchOptions], counts: list[int], workload: Workload, loading: Loading) -> Row:
    """Measure the servers for each number of slots and of adapters."""
    rows: list[Row] = []
    for bench in benches:
        async with bench.servers(max(counts)) as (shape, names, targets, _):
            for count in counts:
                workload = replace(workload, models=names[:count] or ["base"], vocabulary=shape.vocabulary)
                load = load_of(workload, loading.requests, clients=loading.clients, rate=loading.rate)
                loads = await alternate(targets, loading.repeats, load)
                case = f"{count} adapters" if count else "base"
                report_row(rows, row(f"{case}, {bench.slots} slots", loads, adapters=count, slots=bench.slots))
    return {**benches[0].facts, "slots": [bench.slots for bench in benches], "rows": rows}
