"""A trial load: before a version exists, the engine itself says whether it takes the bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count
from pathlib import Path

from adapters.report import Report
from server.engine.engine import Resident
from server.residency.residency import Residency

FIRST_TRIAL_ID = 2**40
"""Far above any version's id, so that a trial is never taken for a version."""


class TrialLoad:
    """The publisher's probe: loads staged bytes into the running engine under a name of their own, and unloads them."""

    def __init__(self, residency: Callable[[], Residency]) -> None:
        self._residency = residency
        self._ids = count(FIRST_TRIAL_ID)
        self._turn = asyncio.Lock()

    async def __call__(self, directory: Path, _report: Report) -> None:
        """Try the adapter in ``directory``.

        Raises:
            AdapterRefused: with the engine's own words.
            EngineNotReady: no engine runs at present.
        """
        number = next(self._ids)
        async with self._turn:  # one at a time: the engine's own limit lies only a few adapters above ours
            await self._residency().trial(Resident(number, f"trial@{number}", directory))
