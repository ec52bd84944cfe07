"""Rounds that alternate between two servers, and the rows of results with ours ÷ theirs."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, TypeVar

from bench.interval import Interval, mean, quantile, ratio
from bench.load import LoadClient, LoadResult
from bench.record import Row, summary
from bench.target import KINDS, BenchTarget, Kind
from bench.workload import Workload

Loads = Mapping[Kind, Sequence[LoadResult]]
T = TypeVar("T")
Round = Callable[[BenchTarget, int], Awaitable[T]]
"""Sends one round of load to a server; the number is that of the round, and its seed."""

WARM_UP: Final = 10_000
"""The seed of the warm-up."""
QUIET_S: Final = 1.5
"""After its last step a worker of vLLM spins for a second on the CPU to which the other server's is bound."""
P50, P99 = quantile(0.5), quantile(0.99)


async def alternate(
    targets: Sequence[BenchTarget], repeats: int, run: Round[T], *, warm_up: Round[object] | None = None
) -> dict[Kind, list[T]]:
    """Return the results of ``repeats`` rounds by server; the order of the servers is reversed after each round.

    Each server first gets an unmeasured warm-up: ``warm_up``, or one more round. A pause before each round lets the
    other server become idle.
    """
    for target in targets:
        await (warm_up or run)(target, WARM_UP)
    found: dict[Kind, list[T]] = {target.kind: [] for target in targets}
    for repeat in range(repeats):
        for target in targets if repeat % 2 == 0 else reversed(targets):
            await asyncio.sleep(QUIET_S)
            found[target.kind].append(await run(target, repeat))
    return found


def load_of(workload: Workload, requests: int, *, clients: int, rate: float | None = None) -> Round[LoadResult]:
    """Return a round of ``requests``: a closed loop of ``clients``, or with ``rate`` an open Poisson loop."""

    async def run(target: BenchTarget, seed: int) -> LoadResult:
        drawn = workload.requests(requests, seed=seed, rate=rate)
        async with LoadClient(target.url, target.api_key) as client:
            return await (client.open_loop(drawn) if rate else client.closed_loop(drawn, clients))

    return run


def row(case: str, loads: Loads, **facts: object) -> Row:
    """Return the numbers of ``case`` by server, and ours ÷ theirs where both were measured."""
    compared = {"ratio": {name: at.row() for name, at in ratios(loads).items()}} if len(loads) > 1 else {}
    return {"case": case, **facts, **{kind: numbers(repeats) for kind, repeats in loads.items()}, **compared}


def timed_row(case: str, times_ms: Mapping[Kind, Sequence[Sequence[float]]], **facts: object) -> Row:
    """Return the times of ``case`` by server (given by round), and ours ÷ theirs where both were measured."""
    found: Row = {"case": case, **facts}
    for kind, repeats in times_ms.items():
        found[kind] = {"ms": summary([value for repeat in repeats for value in repeat])}
    if len(times_ms) > 1:
        found["ratio"] = {"p50": ratio(times_ms["patchbay"], times_ms[peer_in(times_ms)], P50).row()}
    return found


def numbers(repeats: Sequence[LoadResult]) -> Row:
    """Return a server's numbers over all rounds."""
    failures = Counter(answer.failure for load in repeats for answer in load.answers if answer.failure)
    return {
        "tokens_per_s": round(sum(load.tokens_per_s for load in repeats) / len(repeats), 1),
        "first_ms": summary([value for load in repeats for value in load.first_ms]),
        "between_ms": summary([value for load in repeats for value in load.between_ms]),
        "client_cpu": round(sum(load.client_cpu for load in repeats) / len(repeats), 3),
        "late_ms": round(max(load.late_ms for load in repeats), 2),
        "failures": dict(failures),
    }


def peer_in(kinds: Iterable[Kind]) -> Kind:
    """Return the kind of the server that ours is compared with."""
    return next(kind for kind in kinds if kind != "patchbay")


def ratios(loads: Loads) -> dict[str, Interval]:
    """Return ours ÷ theirs: above 1 is better for tokens, below 1 for milliseconds."""
    ours, theirs = loads["patchbay"], loads[peer_in(loads)]
    first = [load.first_ms for load in ours], [load.first_ms for load in theirs]
    between = [load.between_ms for load in ours], [load.between_ms for load in theirs]
    rates = [[load.tokens_per_s] for load in ours], [[load.tokens_per_s] for load in theirs]
    return {
        "tokens_per_s": ratio(*rates, mean),
        "first_p50": ratio(*first, P50),
        "first_p99": ratio(*first, P99),
        "between_p50": ratio(*between, P50),
        "between_p99": ratio(*between, P99),
    }


def show(measured: Row) -> str:
    """Return a row as lines of text."""
    lines = [measured["case"]]
    for kind in KINDS:
        if found := measured.get(kind):
            failed = f"   FAILED {found['failures']}" if found.get("failures") else ""
            lines.append(f"  {kind:9}{'   '.join(_shown(found))}{failed}")
    if compared := measured.get("ratio"):
        shown = (f"{name} {Interval(*at)}" for name, at in compared.items())
        lines.append(f"  ours ÷ theirs: {'   '.join(shown)}")
    return "\n".join(lines)


def _shown(found: Row) -> Iterator[str]:
    for name, value in found.items():
        if isinstance(value, dict) and "p50" in value:
            yield f"{name} p50 {value['p50']:.1f} p99 {value['p99']:.1f} max {value['max']:.1f}"
        elif isinstance(value, float) and name not in {"client_cpu", "late_ms"}:
            yield f"{name} {value:.1f}"
