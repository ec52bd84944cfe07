"""Which versions are resident, as operators decide it: load ahead of traffic, pin, unpin."""

import structlog

from adapters.errors import PatchbayError
from adapters.versions import Version
from server.access.visible_adapters import VisibleAdapters
from server.errors import InvalidRequest
from server.fair_shares import has_share_left
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


async def pin(state: AppState, version: Version, adapters: VisibleAdapters) -> Version:
    """Keep ``version`` resident until it is unpinned; load it now if an engine answers.

    ``adapters``: as the caller sees them; a refusal names no others.

    Raises:
        InvalidRequest: the pin would leave no resident to evict, or exceed the bytes that residents may take, or the
            share of the adapter's project of either.
        PatchbayError: the version cannot be loaded.
    """
    _check_capacity_for_pin(state, version, adapters)
    if state.engine.is_ready:
        await make_resident(state, version)
    async with state.pinning:
        _check_capacity_for_pin(state, version, adapters)
        return await state.registry.set_pinned(version.adapter, version.number, True)


async def unpin(state: AppState, version: Version) -> Version:
    """Let ``version`` be evicted again."""
    unpinned = await state.registry.set_pinned(version.adapter, version.number, False)
    if state.engine.is_ready:
        state.engine.serving().residency.reconsider()
    return unpinned


def _check_capacity_for_pin(state: AppState, version: Version, adapters: VisibleAdapters) -> None:
    """Check the pins in number and in bytes. Projects share both; without keys there is one project, which has all."""
    settings, catalog = state.settings, state.registry.catalog
    project = catalog.adapter(version.adapter).project
    others = [pinned for pinned in catalog.pinned() if pinned.id != version.id]
    own = (
        others if state.keys.is_open else [each for each in others if catalog.adapter(each.adapter).project == project]
    )
    names = ", ".join([pinned.name for pinned in own if adapters.sees(pinned.adapter)][:5]) or "none of yours"
    free = settings.max_residents - 1 - len(others)
    if free <= 0 or (own is not others and not has_share_left(len(own), free)):
        raise InvalidRequest(
            f"{len(others)} of {settings.max_residents} residents are pinned already (of this project: {names}); one "
            "must stay free, and projects share the rest; unpin one, or start the server with a larger --max-residents",
            param="version",
        )
    held = sum(each.size_bytes for each in others)
    left = settings.resident_bytes - held
    _check_project_limit(state, version, project, names)
    is_share_taken = own is not others and not has_share_left(sum(each.size_bytes for each in own), left)
    if version.size_bytes > left or is_share_taken:
        raise InvalidRequest(
            f"pinned residents would take {held + version.size_bytes} of {settings.resident_bytes} bytes, which "
            f"projects share (of this project: {names}); unpin one, or start the server with a larger "
            "--max-resident-bytes",
            param="version",
        )


def _check_project_limit(state: AppState, version: Version, project: str, names: str) -> None:
    """Check the pins of a project against its ``resident_bytes``: where they fill it, no other version could load."""
    limit = state.accounts.limits.of_project(project).resident_bytes
    catalog = state.registry.catalog
    pinned = sum(
        each.size_bytes
        for each in catalog.pinned()
        if each.id != version.id and catalog.adapter(each.adapter).project == project
    )
    if limit is not None and pinned + version.size_bytes > limit:
        raise InvalidRequest(
            f"the pins of the adapter's project would take {pinned + version.size_bytes} of its {limit} resident_bytes "
            f"(pinned: {names}); unpin one, or ask an operator for a larger limit (PUT /v1/limits)",
            param="version",
        )
