"""Compiles uploads in child processes, so that no upload can exhaust this process's memory or block it."""

from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from adapters.errors import AdapterTooCostly
from adapters.lora.canonical_form import CompileReport
from adapters.processes.fork_pool import ForkPool
from adapters.processes.limits import LimitExceeded, ResourceLimits
from adapters.storage.disk import space_needed

IDLE_S: Final = 600.0
"""How long torch and PEFT stay in memory for the next adapter."""


class AdapterCompiler:
    """Compiles adapters, several at once. The child starts on the first call, which takes ten seconds more."""

    def __init__(self) -> None:
        self._pool = ForkPool("adapters.compile.worker", idle_s=IDLE_S)

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

        ``compress_to``: truncate to this rank, whatever is lost (None: refuse what loses more than its kind may). After
        an error ``out`` holds no adapter: remove it.

        Raises:
            AdapterRefused: with every fault found.
            AdapterTooCostly: it took more than ``resource_limits``.
            WorkerProcessDied: the child ended without an answer.
            StorageFull: the disk has no space left.
        """
        paths = {"source": source, "out": out, "base": base}
        question = {name: str(path.absolute()) for name, path in paths.items()}
        bounds = {"max_rank": max_rank, "compress_to": compress_to}
        try:
            with space_needed(out):
                answer = await self._pool.ask({}, {**question, **bounds}, resource_limits)
        except LimitExceeded as exceeded:
            raise AdapterTooCostly(
                f"compiling this adapter took more than {exceeded}: send plain LoRA, which takes little, or convert it "
                "yourself with `python -m adapters.compile`"
            ) from None
        return TypeAdapter(CompileReport).validate_python(answer)

    async def aclose(self) -> None:
        await self._pool.aclose()
