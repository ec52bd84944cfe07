"""Has uploads inspected and brought into canonical form by ``adapters.checks.__main__``, where none can harm us."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from adapters.base_model import BaseModel
from adapters.checks.canonicalizer import Canonical
from adapters.checks.inspection import AdapterLimits
from adapters.checks.report import InspectionReport
from adapters.errors import AdapterTooCostly
from adapters.lora.compile_report import CompileReport
from adapters.processes.confinement import ResourceLimits, TookTooMuch
from adapters.processes.fork_pool import ForkPool
from adapters.storage.disk import space_needed


class Inspector:
    """Inspects adapters, several at once if need be. Its process starts with the first, or ahead of it by ``start``."""

    def __init__(self) -> None:
        self._pool = ForkPool("adapters.checks.__main__")

    @property
    def process_id(self) -> int | None:
        """Of the process that forks inspections."""
        return self._pool.process_id

    async def start(self, base: BaseModel) -> None:
        """Get ready to inspect adapters for ``base``; does not wait until it is."""
        await self._pool.start(_setup(base))

    async def canonicalize(
        self, directory: Path, out: Path, base: BaseModel, limits: AdapterLimits, resource_limits: ResourceLimits
    ) -> Canonical:
        """Do what ``adapters.checks.canonicalizer.canonicalize`` does, within ``resource_limits``.

        Raises:
            AdapterRefused: with every fault found.
            AdapterTooCostly: it took more than ``resource_limits``.
            WorkerProcessDied: the process ended without an answer.
            StorageFull: the disk has no space left.
        """
        question = {"directory": _path(directory), "out": _path(out), "limits": asdict(limits)}
        try:
            with space_needed(out):
                answer = await self._pool.ask(_setup(base), question, resource_limits)
        except TookTooMuch as exceeded:
            raise AdapterTooCostly(
                f"inspecting this adapter took more than {exceeded}: train with a smaller rank, save it in bfloat16, "
                "or give the server more (--max-compile-bytes, --max-compile-s)"
            ) from None
        made = None if answer["made"] is None else CompileReport.from_json(answer["made"])
        return Canonical(InspectionReport.from_json(answer["report"]), made)

    async def aclose(self) -> None:
        """End the process, whatever it is at."""
        await self._pool.aclose()


def _setup(base: BaseModel) -> Mapping[str, Any]:
    modules = {module: list(shape) for module, shape in base.modules.items()}
    return {"name": base.name, "fingerprint": base.fingerprint, "dtype": base.dtype, "modules": modules}


def _path(directory: Path) -> str:
    return str(directory.absolute())
