"""One server on one data directory and one port, killed and started again; and the memory and descriptors it holds."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from bench.scenarios.start import engine_of
from bench.target import PATCHBAY, BenchTarget, free_port, run_server

SETTLED_S: Final = 45
"""Seconds from a start, or from the death of an engine, until memory is read: caches are full by then."""
GROWTH: Final = 1.1
SPARE_KIB: Final = 64 << 10
SPARE_DESCRIPTORS: Final = 64


@dataclass(frozen=True)
class ProcessSample:
    """What the server's process held at one moment.

    Attributes:
        at_s: a value of ``time.monotonic``.
        rss_kib: resident memory in KiB.
        descriptors: open files and sockets.
    """

    at_s: float
    rss_kib: int
    descriptors: int


@dataclass
class ServerLife:
    """One start of the server: when it was ready and when a process of it was killed, in ``time.monotonic`` seconds."""

    target: BenchTarget
    ready_s: float
    samples: list[ProcessSample] = field(default_factory=list)

    def sample(self) -> None:
        """Read the process's memory and descriptors."""
        process = Path(f"/proc/{self.target.process.pid}")
        try:
            status = (process / "status").read_text()
            descriptors = len(os.listdir(process / "fd"))
        except (FileNotFoundError, ProcessLookupError):  # it was killed
            return
        rss = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
        self.samples.append(ProcessSample(time.monotonic(), rss, descriptors))

    @property
    def settled(self) -> list[ProcessSample]:
        """The samples after the server's caches are full."""
        return [sample for sample in self.samples if sample.at_s > self.ready_s + SETTLED_S]

    def growth(self) -> str | None:
        """Return the growth of memory or descriptors in this life as text; None: neither has grown."""
        if len(self.settled) < 4:
            return None
        quarter = len(self.settled) // 4
        first, last = self.settled[:quarter], self.settled[-quarter:]
        rss = min(s.rss_kib for s in first), min(s.rss_kib for s in last)
        descriptors = min(s.descriptors for s in first), min(s.descriptors for s in last)
        if rss[1] > rss[0] * GROWTH + SPARE_KIB or descriptors[1] > descriptors[0] + SPARE_DESCRIPTORS:
            return f"memory {rss[0] >> 10} to {rss[1] >> 10} MiB, descriptors {descriptors[0]} to {descriptors[1]}"
        return None


class ServerLives:
    """A server that is killed and started again; an async context manager.

    Args:
        data_dir: its data directory.
        arguments: further arguments of `patchbay serve`.
    """

    def __init__(self, data_dir: Path, arguments: Sequence[str] = ()) -> None:
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        self.lives: list[ServerLife] = []
        self.kills: list[tuple[str, float]] = []
        self._port = port
        self._log = data_dir.with_suffix(".log")
        self._command = [PATCHBAY, "serve", "--port", str(port), "--data-dir", str(data_dir), *arguments]
        self._ready = asyncio.Event()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def life(self) -> ServerLife:
        """The running one."""
        return self.lives[-1]

    async def until_ready(self) -> None:
        """Wait until the server is started, and its engine is ready.

        Raises:
            RuntimeError: the server ended by itself.
        """
        while True:
            await self._ready.wait()
            life = self.life
            try:
                return await life.target.until_ready()
            except RuntimeError:
                if self._ready.is_set() and life is self.life:
                    raise  # else it was killed here: the next life is awaited

    def was_killed_since(self, at_s: float) -> bool:
        """Whether a process of the server was killed, or away, after ``at_s``."""
        return not self._ready.is_set() or any(killed_s >= at_s for _, killed_s in self.kills)

    async def kill_engine(self) -> None:
        """Kill the engine core; the server rebuilds it."""
        os.kill(engine_of(self.life.target), signal.SIGKILL)
        self.kills.append(("engine", time.monotonic()))

    async def kill_server(self) -> None:
        """Kill the server's process, as ``kill -9`` does, and start the server again on its data directory."""
        self._ready.clear()
        self.life.target.process.kill()
        self.kills.append(("server", time.monotonic()))
        await self._stack.aclose()
        await self._start()
        self.kills.append(("start", time.monotonic()))

    async def _start(self) -> None:
        self._stack = AsyncExitStack()
        target = await self._stack.enter_async_context(run_server(self._command, "patchbay", self._port, self._log))
        await target.until_ready()
        self.lives.append(ServerLife(target, time.monotonic()))
        self._ready.set()
