"""What is left for a quiet adapter when two others are flooded and there are fewer slots than adapters."""

from __future__ import annotations

import asyncio
import itertools
import time
from dataclasses import dataclass, replace
from typing import Annotated

import typer

from bench.load import LoadClient, LoadSpec
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
    Slots,
    conduct,
    say,
    words,
)
from bench.record import Row
from bench.target import BenchTarget
from bench.versus import alternating, asking, row
from bench.workload import Workload

Clients = Annotated[int, typer.Option(min=1, help="Of each flood; they wait for an answer before they ask again.")]
Seconds = Annotated[float, typer.Option(help="How long the floods last.")]
Every = Annotated[float, typer.Option(help="Mean seconds between requests of the trickle (Poisson).")]

Seen = dict[str, LoadSpec]
"""What the floods and the trickle saw."""


@dataclass(frozen=True)
class Traffic:
    """Floods of so many clients for so many seconds, and a request of the trickle every so many."""

    clients: int
    seconds: float
    every: float


def fair(
    *,
    peer: Peer = None,
    shape: ShapeName = "100m",
    rank: Rank = 8,
    slots: Slots = 2,
    clients: Clients = 12,
    seconds: Seconds = 15,
    every: Every = 1.5,
    repeats: Repeats = 2,
    prompt: Prompt = "16",
    answer: AnswerTokens = "8-24",
    engine_flag: EngineFlag = None,
    out: Out = RESULTS,
) -> None:
    """Two flooded adapters and a third one that is asked now and then, with two slots."""
    bench = Bench(peer, shape, rank, slots, flags=tuple(engine_flag or ()))
    asked = words(prompt, answer)
    conduct("fair", out, lambda: measure(bench, asked, Traffic(clients, seconds, every), repeats))


async def measure(bench: Bench, asked: Workload, traffic: Traffic, repeats: int) -> Row:
    """Let the trickle ask alone, then beside the floods."""
    rows: list[Row] = []
    async with bench.servers(3) as (shape, names, targets, _):
        *flooded, quiet = (replace(asked, models=[name], vocabulary=shape.vocabulary) for name in names)

        async def load(target: BenchTarget, seed: int) -> Seen:
            async with LoadClient(target.url) as client:
                return await _flood(client, flooded, quiet, traffic, seed)

        alone = asking(quiet, max(2, int(traffic.seconds / traffic.every / 2)), clients=1)
        say(rows, row("trickle alone", await alternating(targets, repeats, alone)))
        known = replace(asked, models=names, vocabulary=shape.vocabulary)
        seen = await alternating(targets, repeats, load, warm_up=asking(known, 16, clients=8))
    for name in ("trickle", "floods"):
        say(rows, row(name, {kind: [each[name] for each in found] for kind, found in seen.items()}))
    return {**bench.facts, "rows": rows}


async def _flood(client: LoadClient, flooded: list[Workload], quiet: Workload, traffic: Traffic, seed: int) -> Seen:
    end = time.perf_counter() + traffic.seconds
    floods = [
        client.closed_loop(
            itertools.takewhile(lambda _: time.perf_counter() < end, flood.for_ever(seed=seed)), traffic.clients
        )
        for flood in flooded
    ]
    asks = quiet.asks(round(traffic.seconds / traffic.every), seed=seed, rate=1 / traffic.every)
    in_time = [ask for ask in asks if ask.at_s < traffic.seconds]
    trickle, *others = await asyncio.gather(client.open_loop(in_time), *floods)
    took_s = max(load.took_s for load in others)
    together = LoadSpec(tuple(answer for load in others for answer in load.answers), took_s, others[0].client_cpu)
    return {"trickle": trickle, "floods": together}
