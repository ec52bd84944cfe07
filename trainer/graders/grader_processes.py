"""The child processes that grade, opened and closed together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from adapters.fair_places import FairPlaces
from trainer.graders.python_processes import PythonBounds, PythonProcesses
from trainer.graders.schema_checks import SchemaChecks


@dataclass(frozen=True, slots=True)
class GraderProcesses:
    """Runs the code of python graders, and checks JSON schemas."""

    python: PythonProcesses
    schemas: SchemaChecks

    @classmethod
    def of(cls, bounds: PythonBounds, *, runs_python: bool) -> GraderProcesses:
        return cls(PythonProcesses(bounds, is_allowed=runs_python), SchemaChecks(FairPlaces(bounds.processes)))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Look for a sandbox if python graders are allowed; at the end of the block all processes end."""
        async with self.schemas.running(), self.python.running():
            yield
