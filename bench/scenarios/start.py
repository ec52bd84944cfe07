"""Milliseconds from the start of a server's process, and from the death of its engine, to the first token of an answer.

patchbay rebuilds the engine in its process. Stock vLLM ends when its engine dies, so its time includes an immediate
restart, as by a supervisor. The servers alternate.
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

from bench import options
from bench.comparison import timed_row
from bench.load import LoadClient
from bench.options import BenchOptions, report_row
from bench.record import Row
from bench.shape import Shape
from bench.target import PATIENCE_S, POLL_S, BenchTarget, Kind, ServerConfig, free_port, launch
from bench.workload import LoadRequest

ENGINE: Final = "EngineCore"
QUESTION: Final = LoadRequest(0.0, "base", (100, 101, 102, 103), 1)

Starts = Annotated[int, typer.Option(min=1, help="Starts of each server; the servers alternate.")]


async def start(
    *,
    peer: options.Peer = None,
    shape: options.ShapeName = "embedded",
    starts: Starts = 2,
    engine_flag: options.EngineFlag = None,
) -> Row:
    """Time from process start, and from the engine's death by kill -9, to the first token."""
    bench = BenchOptions(peer, shape, flags=engine_flag)
    rows: list[Row] = []
    times: dict[Kind, list[tuple[float, float]]] = {kind: [] for kind in bench.kinds}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        base = Shape.of(shape, Path(folder))
        for number in range(starts):
            for kind in bench.kinds:
                root = Path(folder) / f"{kind}-{number}"
                root.mkdir()
                times[kind].append(await _times(bench.server_config(base, {}), kind, root))
    for which, case in enumerate(("process start → first token", "engine killed → first token")):
        report_row(rows, timed_row(case, {kind: [[pair[which]] for pair in pairs] for kind, pairs in times.items()}))
    return {**bench.facts, "rows": rows}


async def _times(config: ServerConfig, kind: Kind, root: Path) -> tuple[float, float]:
    """Return milliseconds to the first token from the start, and from the death of the engine."""
    port = free_port()
    async with AsyncExitStack() as stack:
        started = time.perf_counter()
        target = await stack.enter_async_context(launch(kind, config, port, root))
        await _first_token(target)
        to_start = time.perf_counter() - started
        os.kill(engine_of(target), signal.SIGKILL)
        killed = time.perf_counter()
        if kind == "vllm":
            await asyncio.to_thread(target.process.wait)
            target = await stack.enter_async_context(launch(kind, config, port, root))
        await _first_token(target)
        return to_start * 1000, (time.perf_counter() - killed) * 1000


async def _first_token(target: BenchTarget) -> None:
    """Wait until the server has answered a request.

    Raises:
        RuntimeError: the server ended.
    """
    async with asyncio.timeout(PATIENCE_S), LoadClient(target.url) as client:
        while True:
            await target.until_ready()
            if (await client.send(QUESTION)).failure is None:
                return
            await asyncio.sleep(POLL_S)


def engine_of(target: BenchTarget) -> int:
    """Return the process id of the server's engine, found by its title among the server's descendants."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    parents = {int(pid): int(parent) for pid, parent, _ in rows}

    def is_below(pid: int) -> bool:
        return pid in parents and (parents[pid] == target.process.pid or is_below(parents[pid]))

    return next(int(pid) for pid, _, command in rows if ENGINE in command and is_below(int(pid)))
