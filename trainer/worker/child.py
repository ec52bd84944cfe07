"""The child process of one job: started low in priority, asked to stop with SIGTERM, killed when it does not."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

NICENESS = 10
STOP_S = 60.0
"""How long a child may take to write its checkpoint after SIGTERM."""


class Child:
    """A running ``python -m trainer.methods RUN_DIR``."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def ended(self, within_s: float) -> int | None:
        """Return the exit status; None if it still runs after ``within_s`` seconds."""
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
async def child(run_dir: Path) -> AsyncIterator[Child]:
    """Start the child of the run in ``run_dir``; it does not outlive the block. Its output goes to ``child.log``."""
    with (run_dir / "child.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "trainer.methods",
            str(run_dir),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=_lower_priority,
        )
    started = Child(process)
    try:
        yield started
    finally:
        await started.kill()


def _lower_priority() -> None:
    """Requests come first: whoever trains beside a server gets what it leaves."""
    os.nice(NICENESS)
