"""How long until a server answers: from the start of its process, and from the death of its engine.

Ours rebuilds the engine in its process. Stock vLLM ends when its engine dies, so there the clock also holds what a
supervisor does that starts it again at once. Each clock stops at the first token of an answer.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated, Final

import typer

from bench.load import LoadClient
from bench.options import RESULTS, Bench, EngineFlag, Out, Peer, ShapeName, conduct, say
from bench.record import Row
from bench.shape import Shape
from bench.target import PATIENCE_S, POLL_S, BenchTarget, Kind, free_port, launch
from bench.versus import timed_row
from bench.workload import Ask

ENGINE: Final = "EngineCore"
QUESTION: Final = Ask(0.0, "base", (100, 101, 102, 103), 1)

Starts = Annotated[int, typer.Option(min=1, help="Of each server, one after the other.")]


def start(
    *,
    peer: Peer = None,
    shape: ShapeName = "embedded",
    starts: Starts = 2,
    engine_flag: EngineFlag = None,
    out: Out = RESULTS,
) -> None:
    """Process start to first token, and engine killed with -9 to first token."""
    bench = Bench(peer, shape, flags=tuple(engine_flag or ()))
    conduct("start", out, lambda: measure(bench, starts))


async def measure(bench: Bench, starts: int) -> Row:
    """Start each server and kill its engine, in turns."""
    rows: list[Row] = []
    begun: dict[Kind, list[list[float]]] = {kind: [] for kind in bench.kinds}
    killed: dict[Kind, list[list[float]]] = {kind: [] for kind in bench.kinds}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        shape = Shape.of(bench.shape_name, Path(folder))
        for number in range(starts):
            for kind in bench.kinds:
                root = Path(folder) / f"{kind}-{number}"
                root.mkdir()
                to_start, to_recover = await _times(bench, kind, shape, root)
                begun[kind].append([to_start])
                killed[kind].append([to_recover])
    say(rows, timed_row("process start → first token", begun))
    say(rows, timed_row("engine killed → first token", killed))
    return {**bench.facts, "rows": rows}


async def _times(bench: Bench, kind: Kind, shape: Shape, root: Path) -> tuple[float, float]:
    """Return milliseconds to the first token after a start, and after the death of the engine."""
    stand, port = bench.stand(shape, {}), free_port()
    async with AsyncExitStack() as stack:
        started = time.perf_counter()
        target = await stack.enter_async_context(launch(kind, stand, port, root))
        await _first_token(target)
        to_start = time.perf_counter() - started
        os.kill(engine_of(target), signal.SIGKILL)
        killed = time.perf_counter()
        if kind == "vllm":
            await asyncio.to_thread(target.process.wait)
            target = await stack.enter_async_context(launch(kind, stand, port, root))
        await _first_token(target)
        return to_start * 1000, (time.perf_counter() - killed) * 1000


async def _first_token(target: BenchTarget) -> None:
    """Wait until the server has answered.

    Raises:
        RuntimeError: it ended instead.
    """
    async with asyncio.timeout(PATIENCE_S), LoadClient(target.url) as client:
        while True:
            await target.until_ready()
            if (await client.ask(QUESTION)).failure is None:
                return
            await asyncio.sleep(POLL_S)


def engine_of(target: BenchTarget) -> int:
    """Return the process of the server's engine, which names itself."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    parents = {int(pid): int(parent) for pid, parent, _ in rows}

    def is_below(pid: int) -> bool:
        return pid in parents and (parents[pid] == target.process.pid or is_below(parents[pid]))

    return next(int(pid) for pid, _, command in rows if ENGINE in command and is_below(int(pid)))
