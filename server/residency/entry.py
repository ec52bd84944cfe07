"""Where a version stands with the engine: one entry each, one state machine.

(absent) ──▶ LOADING ──▶ RESIDENT ◀──▶ DRAINING
   ▲            │            │             │
   │◀───────────┘            ▼             │
   └──────────────────── UNLOADING ◀───────┘

LOADING   → RESIDENT   the engine has it (refused: absent again)
RESIDENT  → DRAINING   unloaded while somebody holds it
RESIDENT  → UNLOADING  evicted, or unloaded while nobody holds it
DRAINING  → RESIDENT   an operator's load calls the unload off
DRAINING  → UNLOADING  the last lease came back
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from enum import StrEnum

from adapters.versions import Version
from server.engine.protocol import Resident


class ResidentState(StrEnum):
    """Where a version stands with the engine; absence is the fifth state."""

    LOADING = "loading"
    RESIDENT = "resident"
    DRAINING = "draining"
    UNLOADING = "unloading"


EDGES: Mapping[ResidentState, frozenset[ResidentState]] = {
    ResidentState.LOADING: frozenset({ResidentState.RESIDENT}),
    ResidentState.RESIDENT: frozenset({ResidentState.DRAINING, ResidentState.UNLOADING}),
    ResidentState.DRAINING: frozenset({ResidentState.RESIDENT, ResidentState.UNLOADING}),
    ResidentState.UNLOADING: frozenset(),
}
"""What may follow; an entry that leaves the machine is dropped, never reused."""


class Entry:
    """One version's stay with the engine, from its load to its end."""

    __slots__ = ("_state", "gone", "leases", "loaded", "version")

    def __init__(self, version: Version) -> None:
        loop = asyncio.get_running_loop()
        self.version = version
        self.leases = 0
        self.loaded: asyncio.Future[Resident] = loop.create_future()
        """The resident, or why there is none."""
        self.gone: asyncio.Future[None] = loop.create_future()
        """Done when the engine has forgotten it."""
        self._state = ResidentState.LOADING

    @property
    def state(self) -> ResidentState:
        """Where it stands."""
        return self._state

    def become(self, state: ResidentState) -> None:
        """Move along an edge; any other move is a mistake of ours."""
        assert state in EDGES[self._state], f"{self.version.name}: {self._state} → {state}"
        self._state = state
