"""How a process of ours is held that works on somebody's upload: to a share of memory and time, and to our own life.

Such a process sees no environment of ours (keys, tokens, proxies), and PEFT in it is told to stay off the network.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

NICENESS: Final = 10
ENVIRONMENT: Mapping[str, str] = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
}

_SHOWN_BYTES: Final = 2000
_PR_SET_PDEATHSIG: Final = 1  # prctl(2)


@dataclass(frozen=True, slots=True)
class ResourceLimits:
    """What one piece of work may take.

    ``memory_bytes`` bounds what the process allocates (RLIMIT_DATA): torch and PEFT themselves take some 700 MiB, the
    largest weight of the base eight bytes per number several times over. ``cpu_s`` counts one core.
    """

    memory_bytes: int
    cpu_s: int
    wall_s: float

    def exceeded_by(self, status: int) -> str | None:
        """Say what a process took too much of that ended with ``status``, as subprocess has it; None: of nothing."""
        if status == -signal.SIGXCPU:
            return f"{self.cpu_s} seconds of a core"
        if status == -signal.SIGALRM:
            return f"{self.wall_s:g} seconds"
        return None


class TookTooMuch(Exception):
    """A process reached a bound of its allowance; ``str`` of it says which."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended, what it said, and the end of what it wrote besides."""

    status: int
    said: bytes
    log: str


async def run(*arguments: str, resource_limits: ResourceLimits) -> Ended:
    """Run ``python ARGUMENTS…`` within ``resource_limits``; it does not outlive the call.

    Raises:
        TookTooMuch: of time; a process that may not have more memory ends in its own way.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
        env=ENVIRONMENT,
        start_new_session=True,
        preexec_fn=_Confined(resource_limits),
    )
    try:
        said, log = await asyncio.wait_for(process.communicate(), resource_limits.wall_s)
    except TimeoutError:
        raise TookTooMuch(f"{resource_limits.wall_s:g} seconds") from None
    finally:
        await end(process)
    assert process.returncode is not None
    if (exceeded := resource_limits.exceeded_by(process.returncode)) is not None:
        raise TookTooMuch(exceeded)
    return Ended(process.returncode, said, log[-_SHOWN_BYTES:].decode(errors="replace").strip())


async def end(process: Process) -> None:
    """Kill ``process`` if it still runs, and wait for it."""
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()


def hold_to(resource_limits: ResourceLimits) -> None:
    """Hold the calling process to ``resource_limits``, but for the seconds on the wall."""
    # Not RLIMIT_AS: torch reserves address space by the gigabyte that it never touches.
    resource.setrlimit(resource.RLIMIT_DATA, (resource_limits.memory_bytes, resource_limits.memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (resource_limits.cpu_s, resource_limits.cpu_s + 1))


class DiesWithParent:
    """Called by a process, it has the kernel kill that process once its parent is dead: nobody wants its work then."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded before a fork

    def __call__(self) -> None:
        """Ask the kernel; nothing happens where there is no such kernel."""
        if self._libc is not None:
            self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Subordinate(DiesWithParent):
    """Run by a new process before its program: requests come first."""

    def __call__(self) -> None:
        """Do so."""
        os.nice(NICENESS)
        super().__call__()


class _Confined(Subordinate):
    """Run by a new process before its program: no upload takes more than its share."""

    def __init__(self, resource_limits: ResourceLimits) -> None:
        super().__init__()
        self._resource_limits = resource_limits

    def __call__(self) -> None:
        hold_to(self._resource_limits)
        super().__call__()
