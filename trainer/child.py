"""The process that trains: ``python -m trainer.methods``, low in priority, dead with whoever started it.

It is a process so that it may be killed, run out of memory or hang, and its tensor libraries stay out of the server.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from adapters.processes.confinement import Subordinate

STOP_S: Final = 60.0
"""How long a child may take to write its checkpoint after SIGTERM."""
LOG: Final = "child.log"


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
            preexec_fn=Subordinate(),
        )
    started = Child(process)
    try:
        yield started
    finally:
        await started.kill()
