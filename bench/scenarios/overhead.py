"""What the server itself costs: one adapter that is always resident, by the number of clients."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

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
    ShapeName,
    conduct,
    say,
    words,
)
from bench.record import Row
from bench.versus import alternating, asking, row
from bench.workload import Workload

FEWEST = 6
ROUNDS = 2

Clients = Annotated[list[int], typer.Option(min=1, help="That each wait for an answer before they ask again.")]


def overhead(
    *,
    peer: Peer = None,
    shape: ShapeName = "100m",
    rank: Rank = 8,
    clients: Clients = [1, 8, 32],  # noqa: B006 - typer copies it
    repeats: Repeats = 3,
    prompt: Prompt = "32",
    answer: AnswerTokens = "16",
    engine_flag: EngineFlag = None,
    out: Out = RESULTS,
) -> None:
    """One adapter, by the number of clients: tokens a second and times to the first token."""
    bench = Bench(peer, shape, rank, flags=tuple(engine_flag or ()))
    asked = words(prompt, answer)
    conduct("overhead", out, lambda: measure(bench, clients, repeats, asked))


async def measure(bench: Bench, clients: list[int], repeats: int, asked: Workload) -> Row:
    """Put the load on both servers, for each number of clients."""
    rows: list[Row] = []
    async with bench.servers(1) as (shape, names, targets, _):
        workload = replace(asked, models=names, vocabulary=shape.vocabulary)
        for concurrency in clients:
            load = asking(workload, max(FEWEST, ROUNDS * concurrency), clients=concurrency)
            loads = await alternating(targets, repeats, load, warm_up=asking(workload, 4, clients=concurrency))
            say(rows, row(f"{concurrency} client{'s' * (concurrency > 1)}", loads, clients=concurrency))
    return {**bench.facts, "rows": rows}
