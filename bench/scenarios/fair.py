"""Latency of a rarely used adapter while two others are overloaded, with fewer slots than adapters.

Two adapters get a flood (a closed loop of many clients each), the third a trickle (a request now and then, by a Poisson
process). The trickle is measured alone and beside the floods, on patchbay and stock vLLM in turns.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from typing import Annotated

import typer

from bench import options
from bench.comparison import alternate, load_of, row
from bench.load import LoadClient, LoadResult
from bench.options import BenchOptions, parse_workload, report_row, run_scenario
from bench.record import Row
from bench.target import BenchTarget
from bench.workload import Workload

Every = Annotated[float, typer.Option(help="Mean seconds between requests of the trickle (Poisson).")]


@dataclass(frozen=True)
class Traffic:
    """Clients of each flood, seconds that the floods last, and mean seconds between requests of the trickle."""

    clients: int
    seconds: float
    every: float


def fair(
    *,
    peer: options.Peer = None,
    shape: options.ShapeName = "100m",
    rank: options.Rank = 8,
    slots: options.Slots = 2,
    clients: options.Clients = 12,
    seconds: options.Seconds = 15,
    every: Every = 1.5,
    repeats: options.Repeats = 2,
    prompt: options.Prompt = "16",
    answer: options.AnswerTokens = "8-24",
    engine_flag: options.EngineFlag = None,
    out: options.Out = options.RESULTS,
) -> None:
    """Two flooded adapters (--clients each) and a third with a request now and then, on two slots."""
    bench = BenchOptions(peer, shape, rank, slots, flags=engine_flag)
    workload = parse_workload(prompt, answer)
    run_scenario("fair", out, lambda: measure(bench, workload, Traffic(clients, seconds, every), repeats))


async def measure(bench: BenchOptions, workload: Workload, traffic: Traffic, repeats: int) -> Row:
    """Measure the trickle alone, then beside the floods."""
    rows: list[Row] = []
    async with bench.servers(3) as (shape, names, targets, _):
        *flooded, quiet = (replace(workload, models=[name], vocabulary=shape.vocabulary) for name in names)

        async def run(target: BenchTarget, seed: int) -> dict[str, LoadResult]:
            async with LoadClient(target.url) as client:
                return await _flood(client, flooded, quiet, traffic, seed)

        alone = load_of(quiet, max(2, int(traffic.seconds / traffic.every / 2)), clients=1)
        report_row(rows, row("trickle alone", await alternate(targets, repeats, alone)))
        all_adapters = replace(workload, models=names, vocabulary=shape.vocabulary)
        loads = await alternate(targets, repeats, run, warm_up=load_of(all_adapters, 16, clients=8))
    for name in ("trickle", "floods"):
        report_row(rows, row(name, {kind: [each[name] for each in rounds] for kind, rounds in loads.items()}))
    return {**bench.facts, "rows": rows}


async def _flood(
    client: LoadClient, flooded: list[Workload], quiet: Workload, traffic: Traffic, seed: int
) -> dict[str, LoadResult]:
    """Return the results of the trickle and of the floods in one round."""
    end = time.perf_counter() + traffic.seconds
    floods = [
        client.closed_loop(flood.endless(seed=seed), traffic.clients, lambda: time.perf_counter() >= end)
        for flood in flooded
    ]
    requests = quiet.requests(round(traffic.seconds / traffic.every), seed=seed, rate=1 / traffic.every)
    in_time = [request for request in requests if request.at_s < traffic.seconds]
    trickle, *others = await asyncio.gather(client.open_loop(in_time), *floods)
    took_s = max(load.took_s for load in others)
    together = LoadResult(tuple(answer for load in others for answer in load.answers), took_s, others[0].client_cpu)
    return {"trickle": trickle, "floods": together}
