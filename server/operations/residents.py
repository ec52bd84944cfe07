"""Which versions are resident, as operators decide it: load ahead of traffic, pin, unpin."""

import structlog

from adapters.errors import PatchbayError
from adapters.versions import Version
from server.errors import InvalidRequest
from server.gateway.resolve import check_base
from server.state import AppState

log = structlog.get_logger(__name__)


async def make_resident(state: AppState, version: Version) -> None:
    """Load ``version`` ahead of its next request, unless it is resident already.

    Raises:
        EngineNotReady: no engine answers at present.
        WrongBase: the version was made for another base model.
        PatchbayError: as ``Residency.load``.
    """
    engine = state.engine.serving()
    await engine.residency.load(check_base(version, engine.info))


async def warm_up(state: AppState, version: Version) -> None:
    """Make ``version`` resident if that is possible; a failure is logged, since what was committed before stands."""
    try:
        await make_resident(state, version)
    except PatchbayError as error:
        log.warning("could not be made resident", version=version.name, reason=error.message)


async def pin(state: AppState, version: Version) -> Version:
    """Keep ``version`` resident until it is unpinned; load it now if an engine answers.

    Raises:
        InvalidRequest: the pin would leave no resident to evict, or exceed the bytes that residents may take.
        PatchbayError: the version cannot be loaded.
    """
    _check_capacity_for_pin(state, version)
    if state.engine.is_ready:
        await make_resident(state, version)
    return await state.registry.set_pinned(version.adapter, version.number, True)


async def unpin(state: AppState, version: Version) -> Version:
    """Let ``version`` be evicted again."""
    unpinned = await state.registry.set_pinned(version.adapter, version.number, False)
    if state.engine.is_ready:
        state.engine.serving().residency.reconsider()
    return unpinned


def _check_capacity_for_pin(state: AppState, version: Version) -> None:
    settings = state.settings
    others = [pinned for pinned in state.registry.catalog.pinned() if pinned.id != version.id]
    if len(others) >= settings.max_residents - 1:
        names = ", ".join(pinned.name for pinned in others[:5])
        raise InvalidRequest(
            f"{len(others)} of {settings.max_residents} residents are pinned already ({names}, …) and one must stay "
            "free; unpin one, or start the server with a larger --max-residents",
            param="version",
        )
    size, limit = sum(each.size_bytes for each in [*others, version]), settings.resident_bytes
    if size > limit:
        raise InvalidRequest(
            f"pinned residents would take {size} of {limit} bytes; unpin one, or start the server with a larger "
            "--max-resident-bytes",
            param="version",
        )
