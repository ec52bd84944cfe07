"""Checks texts against JSON schemas of callers in child processes: a pattern may loop, a ``$ref`` refer to itself."""

from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final

from adapters.errors import WorkerProcessDied
from adapters.fair_places import FairPlaces
from adapters.processes.fork_pool import ForkPool
from adapters.processes.limits import LimitExceeded, ResourceLimits

LIMITS: Final = ResourceLimits(memory_bytes=512 << 20, cpu_s=2, wall_s=20.0)
IDLE_S: Final = 600.0


class SchemaTooCostly(Exception):
    """The check took more than its bounds."""


@dataclass(frozen=True, slots=True)
class CheckedSchema:
    """The result of a check."""

    invalid: str | None = None
    """The fault of the schema itself."""
    fault: str | None = None
    """The fault of the text."""


@dataclass(frozen=True, slots=True)
class SchemaChecks:
    """Checks within ``LIMITS``, several at once, shared fairly between projects."""

    places: FairPlaces
    pool: ForkPool = field(default_factory=lambda: ForkPool("trainer.graders.schema_process", idle_s=IDLE_S))

    async def check(self, project: str, schema: Mapping[str, Any], text: str | None = None) -> CheckedSchema:
        """Check ``schema`` and, unless it is None, ``text``.

        Raises:
            SchemaTooCostly: it took too much time or memory.
        """
        try:
            async with self.places.place(project):
                return CheckedSchema(**await self.pool.ask({}, {"schema": schema, "text": text}, LIMITS))
        except LimitExceeded as limit:
            raise SchemaTooCostly(f"the check took more than {limit}: write a simpler schema") from None
        except WorkerProcessDied as died:
            raise SchemaTooCostly(f"the check failed: {died.message}") from None

    def running(self) -> aclosing[ForkPool]:
        """Have all processes end at the end of the block."""
        return aclosing(self.pool)
