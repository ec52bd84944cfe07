"""The versions that were resident, kept across restarts so that a new engine is warm before its first request.

Losing this record costs cold starts and nothing else. So it is a file of this process and no table, and no request
waits for it.
"""

import asyncio
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import structlog

from adapters.registry.catalog import Catalog
from adapters.versions import Version
from server.errors import EngineNotReady

log = structlog.get_logger(__name__)

INTERVAL_S = 1.0


class ResidentsJournal:
    """The file at ``path``: version ids, most recently used first."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written: list[int] = self._read()
        self._is_failing = False

    def recent(self, catalog: Catalog) -> list[Version]:
        """Return the versions that were resident and still exist, most recently used first."""
        living = {version.id: version for adapter in catalog for version in adapter.versions.values()}
        return [living[number] for number in self._written if number in living]

    async def persist(self, residents: Callable[[], Sequence[Version]]) -> None:
        """Record what ``residents`` returns every second, until cancelled; skipped while no engine is ready."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            with suppress(EngineNotReady):
                await self.try_record(residents())

    async def try_record(self, residents: Sequence[Version]) -> None:
        """As ``record``; that the file cannot be written is logged once, and so is that it can be again."""
        try:
            is_written = await self.record(residents)
        except OSError as error:  # a full disk, say: not worth a line every second
            if not self._is_failing:
                log.warning("residents cannot be recorded; the next start may be colder", error=str(error))
            self._is_failing = True
            return
        if is_written and self._is_failing:
            log.warning("residents are recorded again", path=str(self._path))
            self._is_failing = False

    async def record(self, residents: Sequence[Version]) -> bool:
        """Write ``residents``, most recently used first; return False if they have not changed. Raises OSError."""
        numbers = [version.id for version in residents]
        if numbers == self._written:
            return False
        await asyncio.to_thread(self._write, numbers)
        self._written = numbers
        return True

    def _write(self, numbers: list[int]) -> None:
        draft = self._path.with_suffix(".draft")
        draft.write_text(json.dumps(numbers))
        os.replace(draft, self._path)

    def _read(self) -> list[int]:
        try:
            numbers = json.loads(self._path.read_text())
        except FileNotFoundError:
            return []
        except ValueError:
            log.warning("residents journal unreadable; starting cold", path=str(self._path))
            return []
        return [number for number in numbers if isinstance(number, int)]
