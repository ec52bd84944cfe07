"""Whether we have become slow: our share of stock vLLM's speed, against what it was when results were last committed.

A ratio on one machine, in one run, is far steadier than tokens a second: what slows the machine slows both servers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Final

import typer

from bench.options import RESULTS, Bench, Out, Repeats, Slots, conduct, run, say
from bench.record import Row
from bench.versus import alternating, asking, row
from bench.workload import Lengths, Workload

LEAST: Final = 0.8
ATTEMPTS: Final = 2
"""A machine that others use too may be slow for a while, a regression stays."""
CLIENTS: Final = 8
REQUESTS: Final = 32

Write = Annotated[bool, typer.Option("--write", help="Keep what is measured: it is what is expected from now on.")]


def guard(*, slots: Slots = 4, repeats: Repeats = 3, write: Write = False, out: Out = RESULTS) -> None:
    """In two minutes: are we, against stock vLLM, at least at 0.8 of what was committed? Slower twice: exit with 1."""
    bench = Bench("vllm", "100m", slots=slots)
    if write:
        conduct("guard", out, lambda: measure(bench, repeats))
        return
    committed = newest_ratio(out)
    raise typer.Exit(0 if any(_is_fast(bench, repeats, committed) for _ in range(ATTEMPTS)) else 1)


def _is_fast(bench: Bench, repeats: int, committed: float) -> bool:
    found = ratio_of(run(lambda: measure(bench, repeats)))
    print(judge(found, committed), flush=True)
    return found >= LEAST * committed


async def measure(bench: Bench, repeats: int) -> Row:
    """Put the load on both servers."""
    rows: list[Row] = []
    async with bench.servers(bench.slots) as (shape, names, targets, _):
        words = Workload(names, prompt=Lengths(16, 48), answer=Lengths(16, 16), vocabulary=shape.vocabulary)
        load = asking(words, REQUESTS, clients=CLIENTS)
        loads = await alternating(targets, repeats, load, warm_up=asking(words, CLIENTS, clients=CLIENTS))
        say(rows, row(f"{len(names)} adapters, {CLIENTS} clients", loads))
    return {**bench.facts, "rows": rows}


def newest_ratio(out: Path) -> float:
    """Return the ratio that was kept last.

    Raises:
        typer.BadParameter: none was.
    """
    kept = out / "guard.jsonl"
    if not kept.exists():
        raise typer.BadParameter(f"{kept} is not there: `patchbay bench guard --write` makes it")
    return ratio_of(json.loads(kept.read_text().splitlines()[-1]))


def ratio_of(measured: Row) -> float:
    """Return our tokens a second ÷ stock vLLM's."""
    return float(measured["rows"][0]["ratio"]["tokens_per_s"][0])


def judge(found: float, committed: float) -> str:
    """Say what ``found`` means where ``committed`` was."""
    part = found / committed
    opening = "as fast as it was" if part >= LEAST else "SLOWER than it was"
    return (
        f"{opening}: {found:.2f} of stock vLLM's tokens/s, {part:.2f} of the committed {committed:.2f} (least {LEAST})"
    )
