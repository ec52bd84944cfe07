"""Adapters and versions deleted: first from the registry, then from the engine as the last request releases them."""

from collections.abc import Iterable

from adapters.names import FineTunedName, check_adapter_name, parse_reference
from adapters.versions import Version
from server.access.visible_adapters import VisibleAdapters
from server.state import AppState


async def delete_adapter(state: AppState, name: str) -> None:
    """Delete an adapter with all its versions and aliases; requests in flight finish."""
    adapter = await state.registry.look_up(lambda catalog: catalog.adapter(name))
    await state.registry.delete_adapter(name)
    await _unload(state, adapter.versions.values())


async def delete_version(state: AppState, version: Version, *, with_aliases: bool = False) -> None:
    """Delete a version; requests in flight finish on it.

    Raises:
        VersionInUse: the version is pinned, or an alias points to it and ``with_aliases`` is False.
    """
    await state.registry.delete_version(version.adapter, version.number, with_aliases=with_aliases)
    await _unload(state, [version])


async def delete_model(state: AppState, adapters: VisibleAdapters, model: str) -> None:
    """Delete the adapter ``model``, or the version that a fine-tuned name means with the aliases that point to it.

    An adapter is deleted by the name under which vLLM's call loaded it, too.

    Raises:
        InvalidName: ``model`` is a reference such as ``sql@7``; versions are deleted by ``delete_version``.
        NotFound: it does not exist.
        AdapterShared: it is another project's.
    """
    if (loaded := adapters.loaded_as(model)) is not None:
        await delete_adapter(state, adapters.owned(loaded.name).name)
    elif isinstance(parse_reference(model), FineTunedName):
        version = adapters.find(model)
        adapters.owned(version.adapter)
        await delete_version(state, version, with_aliases=True)
    else:
        await delete_adapter(state, adapters.owned(check_adapter_name(model)).name)


async def _unload(state: AppState, versions: Iterable[Version]) -> None:
    if state.engine.is_ready:
        residency = state.engine.serving().residency
        for version in versions:
            await residency.unload(version)
