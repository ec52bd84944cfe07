"""The process that trains: ``python -m trainer.methods``, low in priority, dead with whoever started it.

It is a process so that it may be killed, run out of memory or hang, and its tensor libraries stay out of the server.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

NICENESS: Final = 10
STOP_S: Final = 60.0
"""How long a child may take to write its checkpoint after SIGTERM."""
LOG: Final = "child.log"

_PR_SET_PDEATHSIG: Final = 1  # prctl(2)


class Child:
    """A running ``python -m trainer.methods RUN_DIR``."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def ended(self, within_s: float | None = None) -> int | None:
        """Return the exit status; None if it still runs after ``within_s`` seconds (None: wait)."""
        with suppress(TimeoutError):
            return await asyncio.wait_for(self._process.wait(), within_s)
        return None

    async def stop(self) -> int:
        """Ask it to write a checkpoint and end; return the exit status."""
        with suppress(ProcessLookupError):
            self._process.terminate()
        status = await self.ended(STOP_S)
        return status if status is not None else await self.kill()

    async def kill(self) -> int:
        """End it at once; return the exit status."""
        with suppress(ProcessLookupError):
            self._process.kill()
        return await self._process.wait()


@asynccontextmanager
async def child(run_dir: Path, *arguments: str) -> AsyncIterator[Child]:
    """Start the child of the run in ``run_dir``; it does not outlive the block. Its output goes to ``child.log``."""
    with (run_dir / LOG).open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "trainer.methods",
            str(run_dir),
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # a terminal's Ctrl-C is for its parent, which then asks it to stop
            preexec_fn=_Subordinate(),
        )
    started = Child(process)
    try:
        yield started
    finally:
        await started.kill()


class DiesWithParent:
    """Called by a process, it has the kernel kill that process once its parent is dead: an orphan must not train on."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded before a fork

    def __call__(self) -> None:
        """Ask the kernel; nothing happens where there is no such kernel."""
        if self._libc is not None:
            self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class _Subordinate(DiesWithParent):
    """Run by the new process before its program: requests come first."""

    def __call__(self) -> None:
        os.nice(NICENESS)
        super().__call__()
