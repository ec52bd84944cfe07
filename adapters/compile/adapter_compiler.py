"""Has uploads compiled by ``adapters.compile`` in processes that none can run out of memory here or stall us with."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from adapters.errors import AdapterTooCostly
from adapters.lora.compile_report import CompileReport
from adapters.processes.confinement import ResourceLimits, TookTooMuch
from adapters.processes.fork_pool import ForkPool
from adapters.storage.disk import space_needed

IDLE_S: Final = 600.0
"""So long torch and PEFT stay in memory for the next one."""


class AdapterCompiler:
    """Compiles adapters, several at once if need be. Its process starts with the first, which takes its while."""

    def __init__(self) -> None:
        self._pool = ForkPool("adapters.compile.ready", idle_s=IDLE_S)

    async def compile(
        self,
        source: Path,
        out: Path,
        *,
        base: Path,
        max_rank: int,
        compress_to: int | None,
        resource_limits: ResourceLimits,
    ) -> CompileReport:
        """Compile the adapter in ``source`` for the base model in ``base`` and write the canonical files to ``out``.

        ``compress_to``: cut at this rank, whatever is lost (None: refuse what loses more than its kind may). What
        ``out`` holds after an error is no adapter: remove it.

        Raises:
            AdapterRefused: with every fault found.
            AdapterTooCostly: it took more than ``resource_limits``.
            WorkerProcessDied: the child ended without an answer.
            StorageFull: the disk has no space left.
        """
        question: dict[str, Any] = {"max_rank": max_rank, "compress_to": compress_to}
        question |= {name: _path(path) for name, path in (("source", source), ("out", out), ("base", base))}
        try:
            with space_needed(out):
                return CompileReport.from_json(await self._pool.ask({}, question, resource_limits))
        except TookTooMuch as exceeded:
            raise AdapterTooCostly(
                f"compiling this adapter took more than {exceeded}: send plain LoRA, which takes little, or convert it "
                "yourself with `python -m adapters.compile`"
            ) from None

    async def aclose(self) -> None:
        """End the process, whatever it is at."""
        await self._pool.aclose()


def _path(directory: Path) -> str:
    return str(directory.absolute())
