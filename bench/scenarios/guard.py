"""Regression guard: tokens per second of patchbay ÷ stock vLLM, compared with the committed ratio.

A ratio on one machine, in one run, is far steadier than tokens per second: a slow machine slows both servers.
"""

import json
from pathlib import Path
from typing import Annotated, Final

import typer

from bench import options
from bench.comparison import alternate, load_of, row
from bench.options import BenchOptions, report_row, run, run_scenario
from bench.record import Row, hardware
from bench.workload import Lengths, Workload

LEAST: Final = 0.8
"""Of the ratio that was committed from the same hardware."""
LEAST_ELSEWHERE: Final = 0.9
"""Of stock vLLM, on hardware without a committed ratio: without bfloat16 instructions the base's products take nearly
all of a step, and the ratio is another one than where they are fast."""
REPEATS_ELSEWHERE: Final = 1
"""Where a step takes long, a load takes a minute, and its ratio is steady: 1.05 [1.03, 1.06] of three."""
ATTEMPTS: Final = 2
"""A shared machine may be slow for a while; a regression shows in every attempt."""
CLIENTS: Final = 8
REQUESTS: Final = 32

Write = Annotated[bool, typer.Option("--write", help="Store the measured ratio as the one to compare with.")]


def guard(
    *, slots: options.Slots = 4, repeats: options.Repeats = 3, write: Write = False, out: options.Out = options.RESULTS
) -> None:
    """Exit with 1 if patchbay ÷ stock vLLM is twice below 0.8 of the ratio committed from this hardware (two minutes).

    On other hardware: if patchbay is twice slower than 0.9 of stock vLLM, measured once each time.
    """
    bench = BenchOptions("vllm", "100m", slots=slots)
    if write:
        run_scenario("guard", out, lambda: measure(bench, repeats))
        return
    committed = newest_ratio(out)
    repeats = repeats if committed is not None else REPEATS_ELSEWHERE
    raise typer.Exit(0 if any(_is_fast(bench, repeats, committed) for _ in range(ATTEMPTS)) else 1)


def _is_fast(bench: BenchOptions, repeats: int, committed: float | None) -> bool:
    found = ratio_of(run(lambda: measure(bench, repeats)))
    print(judge(found, committed), flush=True)
    return found >= least(committed)


async def measure(bench: BenchOptions, repeats: int) -> Row:
    """Measure both servers with the same load."""
    rows: list[Row] = []
    async with bench.servers(bench.slots) as (shape, names, targets, _):
        workload = Workload(names, prompt=Lengths(16, 48), answer=Lengths(16, 16), vocabulary=shape.vocabulary)
        load = load_of(workload, REQUESTS, clients=CLIENTS)
        loads = await alternate(targets, repeats, load, warm_up=load_of(workload, CLIENTS, clients=CLIENTS))
        report_row(rows, row(f"{len(names)} adapters, {CLIENTS} clients", loads))
    return {**bench.facts, "rows": rows}


def newest_ratio(out: Path) -> float | None:
    """Return the tokens per second, ours ÷ stock vLLM's, of the last line from this hardware; None: there is none.

    Raises:
        typer.BadParameter: there is no line at all.
    """
    kept = out / "guard.jsonl"
    if not kept.exists():
        raise typer.BadParameter(f"{kept} does not exist: `patchbay bench guard --write` makes it")
    lines = [json.loads(line) for line in kept.read_text().splitlines()]
    return next((ratio_of(line) for line in reversed(lines) if line["hardware"] == hardware()), None)


def least(committed: float | None) -> float:
    """Return the smallest ratio that passes, given the ``committed`` one of this hardware."""
    return LEAST_ELSEWHERE if committed is None else LEAST * committed


def ratio_of(measured: Row) -> float:
    """Return tokens per second, ours ÷ stock vLLM's."""
    return float(measured["rows"][0]["ratio"]["tokens_per_s"][0])


def judge(found: float, committed: float | None) -> str:
    """Return the verdict on the ratio ``found``, compared with the ``committed`` one, as a line of text."""
    is_fast = found >= least(committed)
    if committed is None:
        opening = "not slower than stock vLLM" if is_fast else "SLOWER than stock vLLM"
        return (
            f"{opening}: {found:.2f} of its tokens/s (least {LEAST_ELSEWHERE}); no ratio of this hardware is committed"
        )
    opening = "as fast as it was" if is_fast else "SLOWER than it was"
    part = found / committed
    return (
        f"{opening}: {found:.2f} of stock vLLM's tokens/s, {part:.2f} of the committed {committed:.2f} (least {LEAST})"
    )
