"""The state of a version in the engine: one entry each, with one state machine.

LOADING → RESIDENT               loaded
RESIDENT → DRAINING              drain: an unload was requested while the version is leased
DRAINING → RESIDENT              retain: a load by an operator cancels the unload
RESIDENT, DRAINING → UNLOADING   unload: evicted, or unloaded, and no longer leased

An entry starts in LOADING. It is dropped when the engine refuses the load, and after UNLOADING; it is never reused.
"""

import asyncio
from enum import StrEnum

from adapters.state_machine import StateMachine
from adapters.versions import Version
from server.engine.protocol import Resident


class ResidentState(StrEnum):
    """The state of a version in the engine. A version without an entry is not in the engine."""

    LOADING = "loading"
    RESIDENT = "resident"
    DRAINING = "draining"
    UNLOADING = "unloading"


RESIDENT_STATES = StateMachine(
    ResidentState,
    {
        "loaded": {ResidentState.LOADING: ResidentState.RESIDENT},
        "drain": {ResidentState.RESIDENT: ResidentState.DRAINING},
        "retain": {ResidentState.DRAINING: ResidentState.RESIDENT},
        "unload": dict.fromkeys((ResidentState.RESIDENT, ResidentState.DRAINING), ResidentState.UNLOADING),
    },
)


class Entry:
    """One version in the engine, from its load to its unload; ``leases`` counts the requests that use it."""

    __slots__ = ("gone", "leases", "loaded", "state", "version")

    def __init__(self, version: Version) -> None:
        loop = asyncio.get_running_loop()
        self.version = version
        self.leases = 0
        self.loaded: asyncio.Future[Resident] = loop.create_future()
        """The resident, or why there is none."""
        self.gone: asyncio.Future[None] = loop.create_future()
        """Done when the engine has forgotten it."""
        self.state = ResidentState.LOADING

    def become(self, state: ResidentState) -> None:
        """Move to ``state``, as ``RESIDENT_STATES`` allows."""
        self.state = RESIDENT_STATES.move(self.state, state)
