"""Keeps the residents of this server as the registry has them, which other servers of the database change too."""

import asyncio
from typing import Final

import structlog

from adapters.errors import StorageUnavailable
from server.operations.residents import warm_up
from server.state import AppState

log = structlog.get_logger(__name__)

INTERVAL_S: Final = 1.0
"""Pause between two looks at the catalog."""


async def follow_residents(state: AppState) -> None:
    """Store quarantines; unload what was quarantined or deleted elsewhere; load, once, what was pinned elsewhere."""
    pins: set[tuple[int, str]] = set()
    while True:
        await asyncio.sleep(INTERVAL_S)
        if state.engine.is_ready:
            await _follow(state, pins)
        try:
            await state.quarantine.store(state.registry)
        except StorageUnavailable as away:
            log.warning("a quarantine cannot be stored yet", cause=away.message)


async def _follow(state: AppState, pins: set[tuple[int, str]]) -> None:
    """Unload and load as the catalog says; ``pins``: those that were seen before, and may have failed to load."""
    catalog, engine = state.registry.catalog, state.engine.serving()
    engine.residency.unload_where(lambda version: version in state.quarantine or not catalog.is_living(version))
    pinned = {version.key: version for version in catalog.pinned()}
    new = [version for key, version in pinned.items() if key not in pins]
    pins.clear()
    pins.update(pinned)
    for version in new:
        is_servable = version.base_fingerprint == engine.info.base.fingerprint and version not in state.quarantine
        if is_servable and engine.residency.state(version) is None:
            await warm_up(state, version)
