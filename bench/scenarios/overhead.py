"""Cost of the server per request: tokens per second and time to the first token, by the number of clients.

One adapter, always resident; a closed loop of 1, 8 and 32 clients, against patchbay and stock vLLM in turns.
"""

from dataclasses import replace
from typing import Annotated

import typer

from bench import options
from bench.comparison import alternate, load_of, row
from bench.options import BenchOptions, parse_workload, report_row
from bench.record import Row

FEWEST = 6
ROUNDS = 2

ClientCounts = Annotated[
    list[int], typer.Option("--clients", min=1, help="Concurrent clients; each waits for its answer. Repeat for more.")
]


async def overhead(
    *,
    peer: options.PeerOrKeyless = None,
    shape: options.ShapeName = "100m",
    rank: options.Rank = 8,
    clients: ClientCounts = [1, 8, 32],  # noqa: B006 - typer copies it
    repeats: options.Repeats = 3,
    prompt: options.Prompt = "32",
    answer: options.AnswerTokens = "16",
    engine_flag: options.EngineFlag = None,
) -> Row:
    """One adapter, by the number of clients: tokens per second and times to the first token."""
    bench, workload = BenchOptions(peer, shape, rank, flags=engine_flag), parse_workload(prompt, answer)
    rows: list[Row] = []
    async with bench.servers(1) as (base, names, targets, _):
        workload = replace(workload, models=names, vocabulary=base.vocabulary)
        for concurrency in clients:
            load = load_of(workload, max(FEWEST, ROUNDS * concurrency), clients=concurrency)
            loads = await alternate(targets, repeats, load, warm_up=load_of(workload, 4, clients=concurrency))
            report_row(rows, row(f"{concurrency} client{'s' * (concurrency > 1)}", loads, clients=concurrency))
    return {**bench.facts, "rows": rows}
