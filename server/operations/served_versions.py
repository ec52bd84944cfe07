"""Checks at a start that the engine serves every published version whole."""

from collections.abc import Collection, Iterable, Iterator
from typing import Final

from adapters.registry.registry import Registry
from adapters.versions import Version
from server.current_engine import RunningEngine
from server.engine.protocol import StartRefused

_SHOWN: Final = 10


async def check_served_versions(registry: Registry, running: RunningEngine) -> None:
    """Check that no flag of the engine cuts a version that was published for its base model.

    Raises:
        StartRefused: versions have a rank that fits in no slot, or modules on which this engine gives adapters no
            effect; names them.
    """
    info = running.info
    versions = [
        version
        for adapter in registry.catalog
        for version in adapter.versions.values()
        if version.base_fingerprint == info.base.fingerprint
    ]
    reasons = list(_too_large(versions, info.max_rank))
    if left_out := _left_out(info.base.modules, running.engine.unserved_modules):
        targets = await registry.target_modules(info.base.fingerprint)
        cut = {version.name: left_out & set(targets.get(version.id, ())) for version in versions}
        reasons += _cut({name: modules for name, modules in cut.items() if modules})
    if reasons:
        raise StartRefused(f"published versions would not be served as they are: {'; '.join(reasons)}")


def _left_out(modules: Collection[str], unserved: Collection[str]) -> set[str]:
    """Return the last parts of names of which no module is served."""
    last = {module: module.rpartition(".")[2] for module in modules}
    return {last[module] for module in unserved if module in last} - {
        part for module, part in last.items() if module not in unserved
    }


def _too_large(versions: Iterable[Version], max_rank: int) -> Iterator[str]:
    if large := [version for version in versions if version.rank > max_rank]:
        rank = max(version.rank for version in large)
        names = _listed([version.name for version in large])
        yield f"{names}: rank {rank}, where the engine takes {max_rank}; start with --max-lora-rank {rank} or more"


def _cut(cut: dict[str, set[str]]) -> Iterator[str]:
    if cut:
        modules = ", ".join(sorted(set().union(*cut.values())))
        yield (
            f"{_listed(list(cut))}: LoRA on {modules}, which the engine would leave out; start with "
            f"--lora-target-modules that has {modules}, or without the flag"
        )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
