"""The process that trains, or reports what a run would meet: ``python -P -m trainer.methods RUN_DIR``.

It is low in priority and killed when its parent dies.
A process of its own may be killed, run out of memory or hang, and keeps the tensor libraries out of the server.
"""

import asyncio
import tempfile
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from socket import socket
from typing import Any, Final

from adapters.errors import StorageFull
from adapters.processes.child import NICENESS, child_environment, end, start
from adapters.storage.disk import in_thread
from trainer.errors import PreflightDied
from trainer.run_directory import Exit, RunDirectory
from trainer.run_spec import RunSpec

STOP_S: Final = 60.0
"""How long a child may take to write its checkpoint after SIGTERM."""
LOG: Final = "child.log"
CHECK_PREFIX: Final = "patchbay-check-"
"""How the names of the directories of checks begin."""
_SHOWN_BYTES: Final = 2000
_WANDB_SECRETS: Final = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")


class Child:
    """A running training process."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def ended(self, within_s: float | None = None) -> int | None:
        """Return the exit status; None if it still runs after ``within_s`` seconds (None: wait)."""
        with suppress(TimeoutError):
            return await asyncio.wait_for(self._process.wait(), within_s)
        return None

    async def stop(self) -> int:
        """Request a checkpoint and the end by SIGTERM; return the exit status."""
        with suppress(ProcessLookupError):
            self._process.terminate()
        status = await self.ended(STOP_S)
        return status if status is not None else await self.kill()

    async def kill(self) -> int:
        return await end(self._process)


def training_environment(run: RunDirectory) -> dict[str, str]:
    """Return the environment of the processes that train ``run``: secrets only of the trackers it reports to."""
    return child_environment(inherits=True, secrets=_WANDB_SECRETS if run.integrations() else ())


@asynccontextmanager
async def child(run_dir: Path, *arguments: str, stdin: int | socket = DEVNULL) -> AsyncIterator[Child]:
    """Start the child of the run in ``run_dir``; it is killed at the end of the block. Output goes to ``child.log``."""
    with (run_dir / LOG).open("ab") as log:
        process = await start(
            "trainer.methods",
            str(run_dir),
            *arguments,
            environment=training_environment(RunDirectory(run_dir)),
            niceness=NICENESS,
            stdin=stdin,
            stdout=log,
            stderr=log,
        )
    started = Child(process)
    try:
        yield started
    finally:
        await started.kill()


async def run_preflight(
    spec: RunSpec, run: RunDirectory | None = None, may_write: Callable[[], Awaitable[None]] | None = None
) -> dict[str, Any]:
    """Return ``trainer.methods.preflight``'s report on ``spec``, whose longest rows are trained on for a few steps.

    ``ok`` is whether the run may start; ``training`` and ``validation`` list every fault with its line. With ``run``,
    that directory gets the token ids of a run that may start, unless ``may_write`` raises an error.

    Raises:
        PreflightDied: the child ended without a report, for example out of memory.
        StorageFull: the disk is full.
    """
    if run is not None:
        run.path.parent.mkdir(parents=True, exist_ok=True)
    place = None if run is None else run.path.parent  # on the same disk, to be moved
    with tempfile.TemporaryDirectory(prefix=CHECK_PREFIX, dir=place) as directory:
        checked = RunDirectory(Path(directory))
        checked.write_spec(spec)
        async with child(checked.path, "--preflight") as process:
            status = await process.ended()
        if status == Exit.NO_SPACE:
            raise StorageFull(f"no space to check the files under {checked.path.parent}: free some")
        if status != 0:
            output = (checked.path / LOG).read_text(errors="replace")[-_SHOWN_BYTES:].strip()
            raise PreflightDied(f"the check of the files died with status {status}", log=output)
        report = await in_thread(checked.preflight)
        if run is not None and report["ok"]:
            if may_write is not None:
                await may_write()
            await in_thread(run.take_token_rows, checked)
        return report
