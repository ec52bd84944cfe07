"""New versions: published from a source, merged from other versions, or bundled with the server."""

import asyncio
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import structlog

from adapters.errors import InvalidName, NameNotAllowed, NameTaken
from adapters.lora.merge.merge import MergeBounds, merge
from adapters.lora.merge.recipe import MergeRecipe
from adapters.names import Reference, check_adapter_name, check_lora_name, is_adapter_name, name_for
from adapters.publish_options import PublishOptions
from adapters.publisher import Published, Publisher
from adapters.registry.registry import Registry
from adapters.sources.directory import DirectorySource
from adapters.sources.source import Source
from adapters.storage.staging import Staging
from server.access.visible_adapters import VisibleAdapters
from server.gateway.resolve import check_base
from server.operations.residents import warm_up
from server.state import AppState

log = structlog.get_logger(__name__)


def check_name(state: AppState, name: str) -> str:
    """Return ``name`` if an adapter may have it.

    Raises:
        InvalidName: it is not valid.
        NameTaken: it is the name of the base model.
    """
    if name in state.engine.served_names:
        raise NameTaken(f"'{name}' is the name of the base model; choose another", param="name")
    return check_adapter_name(name)


async def project_to_publish(state: AppState, adapters: VisibleAdapters, name: str, size_bytes: int = 0) -> str:
    """Return the project of an adapter that the caller publishes as ``name``; raises as ``project_of``.

    Raises:
        QuotaExceeded: the project would store more than it may. ``size_bytes``: what is sent, as far as it is known.
    """
    project = adapters.project_of(name, await state.registry.owner(name))
    await state.accounts.quotas.check_stored(project, size_bytes)
    return project


async def name_to_load(state: AppState, adapters: VisibleAdapters, lora_name: str) -> tuple[str, str | None]:
    """Return the adapter name for ``lora_name``, and ``lora_name`` if it is another one; see ``Adapter.lora_name``.

    Raises:
        InvalidName: no adapter may be called that.
        NameNotAllowed: another project has the name, or the names of which it would be one.
        NameTaken: it is the name of the base model, or means a version or an alias of an adapter.
    """
    caller, base = adapters.caller, state.engine.served_names
    if is_adapter_name(lora_name) or lora_name in base:
        return check_name(state, lora_name), None
    check_lora_name(lora_name)
    if not caller.may_name(name_for(lora_name)):  # before the names that exist are looked at: the answer is one
        raise NameNotAllowed(lora_name, param="lora_name")
    loaded = state.registry.catalog.loaded_as(lora_name)
    project = loaded.project if loaded is not None and caller.seen_project is None else caller.project
    name = await state.registry.name_to_load(lora_name, project, reserved=base)
    with suppress(InvalidName):
        if not caller.may_name(Reference.parse(lora_name).adapter):
            raise NameNotAllowed(lora_name, param="lora_name")
    if not caller.may_name(name):
        raise NameNotAllowed(lora_name, param="lora_name")
    return name, lora_name


async def publish_version(state: AppState, name: str, source: Source, options: PublishOptions) -> Published:
    """Publish a version from ``source``, and make it resident where an alias sends traffic to it already.

    Raises:
        EngineNotReady: no engine runs that could probe the upload.
        PatchbayError: the source, the checks or the probe refused it.
    """
    state.engine.running()
    published = await state.publisher.publish(name, source, options)
    version = published.version
    log.info("published", version=version.name, digest=version.digest, source=version.source)
    if published.alias is not None:
        await warm_up(state, version)
    return published


async def publish_merge(state: AppState, name: str, recipe: MergeRecipe, options: PublishOptions) -> Published:
    """Merge versions as ``recipe`` says, and publish the result like an upload.

    Raises:
        EngineNotReady: no engine runs that could probe the result.
        WrongBase: a version of the recipe was made for another base model than the one served.
        PatchbayError: the versions cannot be merged, or the checks or the probe refused the result.
    """
    info = state.engine.running().info
    versions = [check_base(each.version, info) for each in recipe.ingredients]
    directories = [await state.blobs.verify(version.digest) for version in versions]
    settings = state.settings
    async with Staging(settings.data_dir, max_bytes=settings.max_upload_bytes).open() as scratch:
        bounds = MergeBounds(info.base, info.max_rank, settings.resource_limits)
        async with state.publisher.places.place(options.project):
            report = await merge(recipe, directories, scratch.path, bounds)
        source = DirectorySource(scratch.path, allowed=[scratch.path], origin=str(recipe))
        merged = replace(options, extra={"merge": report}, force_base=True)
        return await publish_version(state, name, source, merged)


async def register_bundled_adapters(registry: Registry, publisher: Publisher, directory: Path) -> None:
    """Publish every adapter directory under ``directory`` under its name, unless that name was ever used.

    So an adapter that was deleted stays deleted.
    """
    for adapter in await asyncio.to_thread(_adapters_in, directory):
        if await registry.owner(adapter.name) is None:
            source = DirectorySource(adapter, allowed=[directory])
            with suppress(NameTaken):  # by another server that starts at the same time
                # The operator's base may have another name.
                await publisher.publish(adapter.name, source, PublishOptions(force_base=True, is_first=True))


def _adapters_in(directory: Path) -> list[Path]:
    return sorted(entry for entry in directory.iterdir() if (entry / "adapter_config.json").is_file())
