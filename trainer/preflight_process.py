"""The preflight of a run, in a child process: what the run would meet, before anything is queued."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from trainer.child import LOG, child
from trainer.errors import PreflightDied
from trainer.run_directory import RunDirectory
from trainer.run_spec import RunSpec

_SHOWN_BYTES = 2000


async def run_preflight(spec: RunSpec) -> dict[str, Any]:
    """Return ``trainer.methods.preflight``'s report on ``spec``, whose longest rows are trained on for a few steps.

    ``ok`` is whether the run may start; ``training`` and ``validation`` list every fault with its line.

    Raises:
        PreflightDied: the child ended without a report, for example out of memory.
    """
    with tempfile.TemporaryDirectory(prefix="patchbay-check-") as directory:
        run = RunDirectory(Path(directory))
        run.write_spec(spec)
        async with child(run.path, "--preflight") as process:
            status = await process.ended()
        if status != 0:
            output = (run.path / LOG).read_text(errors="replace")[-_SHOWN_BYTES:].strip()
            raise PreflightDied(f"the check of the files died with status {status}", log=output)
        return run.preflight()
