"""Inspects uploads and makes them canonical in child processes: no upload can exhaust this process or block it."""

from dataclasses import asdict
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from adapters.base_model import BaseModel
from adapters.checks.canonicalizer import Canonical
from adapters.checks.inspection import AdapterLimits
from adapters.errors import AdapterTooCostly
from adapters.processes.fork_pool import ForkPool
from adapters.processes.limits import LimitExceeded, ResourceLimits
from adapters.storage.disk import space_needed

_BASE_MODEL: Final = TypeAdapter(BaseModel)


class Inspector:
    """Inspects adapters, several at once. The child starts on the first call, or ahead of it with ``start``."""

    def __init__(self) -> None:
        self._pool = ForkPool("adapters.checks.__main__")

    @property
    def process_id(self) -> int | None:
        """The id of the process that forks inspections; None if it does not run."""
        return self._pool.process_id

    async def start(self, base: BaseModel) -> None:
        """Start the child for ``base``; does not wait until it is ready."""
        await self._pool.start(_BASE_MODEL.dump_python(base, mode="json"))

    async def canonicalize(
        self, directory: Path, out: Path, base: BaseModel, limits: AdapterLimits, resource_limits: ResourceLimits
    ) -> Canonical:
        """Return the result of ``adapters.checks.canonicalizer.canonicalize``, run within ``resource_limits``.

        Raises:
            AdapterRefused: with every fault found.
            AdapterTooCostly: the inspection took more than ``resource_limits``.
            WorkerProcessDied: the process ended without an answer.
            StorageFull: the disk has no space left.
        """
        paths = {"directory": directory, "out": out}
        question = {name: str(path.absolute()) for name, path in paths.items()} | {"limits": asdict(limits)}
        try:
            with space_needed(out):
                answer = await self._pool.ask(_BASE_MODEL.dump_python(base, mode="json"), question, resource_limits)
        except LimitExceeded as exceeded:
            raise AdapterTooCostly(
                f"inspecting this adapter took more than {exceeded}: train with a smaller rank, save it in bfloat16, "
                "or give the server more (--max-compile-bytes, --max-compile-s)"
            ) from None
        return TypeAdapter(Canonical).validate_python(answer)

    async def aclose(self) -> None:
        await self._pool.aclose()
