"""The sandboxed processes in which ``python`` graders run, bounded in number and shared fairly between projects."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import structlog

from adapters.fair_places import FairPlaces
from adapters.processes.child import IdleTimer
from adapters.processes.sandbox import NoSandbox, Sandbox, SandboxedFunction

log = structlog.get_logger(__name__)

FUNCTION: Final = "grade"
LIFE_S: Final = 60.0
"""Seconds of calls after which a process makes way for a new one: the kernel bounds what it computes beside them."""
IDLE_S: Final = 60.0
"""Seconds after which processes that grade nothing end."""

_OFF: Final = (
    "this server runs no code of its callers: start it with --python-graders, or use string_check, text_similarity, "
    "json_schema, score_model or label_model, or combine those with multi"
)


class PythonUnavailable(Exception):
    """This server runs no python graders; the message says why, and what to do about it."""


@dataclass(frozen=True, slots=True)
class PythonBounds:
    """What the processes may take: their number, the seconds of one call, the memory of each."""

    processes: int
    call_s: float
    memory_bytes: int


class PythonProcesses:
    """Calls ``grade`` of sources. A process serves one source of one project, and ends with the first failure.

    A process that has answered waits for the next sample of its source; it makes way when another source needs its
    place, and ends after ``IDLE_S`` seconds. Belongs to one event loop.
    """

    def __init__(self, bounds: PythonBounds, *, is_allowed: bool = True) -> None:
        self._bounds = bounds
        self._is_allowed = is_allowed
        self._places = FairPlaces(bounds.processes)
        self._sandbox: Sandbox | None = None
        self._reason = _OFF
        self._waiting: list[tuple[tuple[str, str], SandboxedFunction]] = []
        """Processes that wait for the next sample, by project and digest of the source; the oldest first."""
        self._busy = 0
        self._idle = IdleTimer(IDLE_S, self._end_waiting)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Look for a sandbox if python graders are allowed; at the end of the block all processes end."""
        if self._is_allowed:
            try:
                self._sandbox = await Sandbox.find()
                log.info("python graders run in a sandbox", launcher=self._sandbox.launcher)
            except NoSandbox as none:
                self._reason = f"python graders are off: {none}"
                log.warning("python graders stay off", reason=str(none))
        try:
            yield
        finally:
            self._idle.stop()
            while self._waiting:
                await self._waiting.pop()[1].aclose()

    def check(self) -> Sandbox:
        """Return the sandbox.

        Raises:
            PythonUnavailable: python graders are not allowed, or there is no sandbox.
        """
        if self._sandbox is None:
            raise PythonUnavailable(self._reason)
        return self._sandbox

    async def call(self, project: str, source: str, arguments: Sequence[Any]) -> float:
        """Return the reward that ``grade`` of ``source`` returns for ``arguments``.

        Raises:
            PythonUnavailable: as ``check``.
            SourceFailed, LimitExceeded, WorkerProcessDied: as ``SandboxedFunction.call``.
        """
        sandbox = self.check()
        key = project, hashlib.sha256(source.encode(errors="surrogatepass")).hexdigest()
        with self._idle.in_use():
            async with self._places.place(project):
                self._busy += 1
                try:
                    process = await self._take(key) or await self._start(sandbox, source)
                    number = await process.call(arguments, within_s=self._bounds.call_s)
                    if process.used_s < LIFE_S:
                        self._waiting.append((key, process))
                    else:
                        await process.aclose()
                finally:
                    self._busy -= 1
                return number

    async def _start(self, sandbox: Sandbox, source: str) -> SandboxedFunction:
        memory_bytes, cpu_s = self._bounds.memory_bytes, math.ceil(LIFE_S + self._bounds.call_s)
        return await SandboxedFunction.start(sandbox, source, FUNCTION, memory_bytes=memory_bytes, cpu_s=cpu_s)

    async def _take(self, key: tuple[str, str]) -> SandboxedFunction | None:
        """Return a process that waits for a sample of ``key``; None: one has to start, and there is a place for it."""
        found = next((each for each in self._waiting if each[0] == key and each[1].is_running), None)
        if found is not None:
            self._waiting.remove(found)
        try:
            while self._waiting and self._busy + len(self._waiting) > self._bounds.processes:
                await self._waiting.pop(0)[1].aclose()
        except asyncio.CancelledError:
            if found is not None:
                found[1].kill()
            raise
        return None if found is None else found[1]

    def _end_waiting(self) -> None:
        while self._waiting:
            self._waiting.pop()[1].kill()
