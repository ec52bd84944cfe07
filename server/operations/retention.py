"""Deletes old versions of an adapter by a rule, so that a loop that publishes for ever does not fill the disk."""

from datetime import UTC, datetime, timedelta

import structlog

from adapters.errors import Conflict, NotFound
from adapters.names import Reference
from adapters.versions import Adapter, Version
from server.operations.deletion import delete_version
from server.state import AppState

log = structlog.get_logger(__name__)


async def apply(state: AppState, name: str) -> None:
    """Delete versions of the adapter ``name`` that the settings do not keep; requests in flight finish on them.

    Kept are the newest ``keep_versions`` of all, the newest ``keep_in_place`` of those loaded in place, those younger
    than ``keep_for_s``, and whatever an alias, a rollout, a pin, a fine-tuned name or an unfinished job names.
    The files are swept like those of any deleted version.
    """
    if name not in (catalog := state.registry.catalog) or not (old := _old(state, catalog.adapter(name))):
        return
    named = await _named(state, catalog.adapter(name))
    young = datetime.now(UTC) - timedelta(seconds=state.settings.keep_for_s)
    deleted = []
    for version in old:
        if version.number in named or version.is_pinned or version.created_at > young:
            continue
        try:
            await delete_version(state, version)
        except (Conflict, NotFound):  # named or deleted a moment ago
            continue
        deleted.append(version.name)
    if deleted:
        log.info("deleted versions by the rule of retention", versions=deleted)


def _old(state: AppState, adapter: Adapter) -> list[Version]:
    """Return the versions that are not among the newest, as far as the settings limit their number."""
    settings = state.settings
    versions = list(adapter.versions.values())
    in_place = [version for version in versions if version.is_in_place]
    old = versions[: -settings.keep_versions] if settings.keep_versions else []
    if settings.keep_in_place:
        old += in_place[: -settings.keep_in_place]
    return list(dict.fromkeys(old))


async def _named(state: AppState, adapter: Adapter) -> set[int]:
    """Return the numbers of versions that an alias, its rollout, a fine-tuned name or an unfinished job names."""
    aliased = {alias.version for alias in adapter.aliases.values()}
    aliased |= {alias.rollout.candidate for alias in adapter.aliases.values() if alias.rollout is not None}
    started = map(Reference.parse, await state.records.jobs.warm_starts())
    trained_on = {each.version for each in started if each.adapter == adapter.name and each.version is not None}
    return aliased | trained_on | set(adapter.fine_tuned.values())
