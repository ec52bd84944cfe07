"""Latency of a rarely used adapter while two others are overloaded, with fewer slots than adapters.

Two adapters get a flood (a closed loop of many clients each), the third a trickle (a request now and then, by a Poisson
process). The trickle is measured alone and beside the floods, on patchbay and stock vLLM in turns.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Annotated

import typer

from bench import options
from bench.comparison import alternate, load_of, row
from bench.load import LoadClient, LoadResult
from bench.options import BenchOptions, parse_workload, report_row
from bench.record import Row
from bench.target import BenchTarget

Every = Annotated[float, typer.Option(help="Mean seconds between requests of the trickle (Poisson).")]


async def fair(
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
) -> Row:
    """Two flooded adapters (--clients each) and a third with a request now and then, on two slots."""
    bench = BenchOptions(peer, shape, rank, slots, flags=engine_flag)
    workload = parse_workload(prompt, answer)
    rows: list[Row] = []
    async with bench.servers(3) as (base, names, targets, _):
        workload = replace(workload, models=names, vocabulary=base.vocabulary)
        *flooded, quiet = (replace(workload, models=[name]) for name in names)

        async def run(target: BenchTarget, seed: int) -> dict[str, LoadResult]:
            """Send the trickle and the floods of one round."""
            end = time.perf_counter() + seconds
            requests = quiet.requests(round(seconds / every), seed=seed, rate=1 / every)
            in_time = [request for request in requests if request.at_s < seconds]
            async with LoadClient(target.url) as client:
                floods = [
                    client.closed_loop(flood.endless(seed=seed), clients, lambda: time.perf_counter() >= end)
                    for flood in flooded
                ]
                trickle, *others = await asyncio.gather(client.open_loop(in_time), *floods)
            answers = tuple(answer for load in others for answer in load.answers)
            took_s = max(load.took_s for load in others)
            return {"trickle": trickle, "floods": LoadResult(answers, took_s, others[0].client_cpu)}

        alone = load_of(quiet, max(2, int(seconds / every / 2)), clients=1)
        report_row(rows, row("trickle alone", await alternate(targets, repeats, alone)))
        loads = await alternate(targets, repeats, run, warm_up=load_of(workload, 16, clients=8))
    for name in ("trickle", "floods"):
        report_row(rows, row(name, {kind: [each[name] for each in rounds] for kind, rounds in loads.items()}))
    return {**bench.facts, "rows": rows}
