"""The bundled adapters that a first start registers, so that the first request can already name one."""

from __future__ import annotations

import asyncio
from pathlib import Path

from adapters.publish_options import PublishOptions
from adapters.publisher import Publisher
from adapters.registry.registry import Registry
from adapters.sources.directory import DirectorySource


async def register_bundled_adapters(registry: Registry, publisher: Publisher, directory: Path) -> None:
    """Publish every adapter directory under ``directory`` under its name, unless that name was ever used.

    So an adapter that was deleted stays deleted.
    """
    for adapter in await asyncio.to_thread(_adapters_in, directory):
        if await registry.is_unused(adapter.name):
            source = DirectorySource(adapter, allowed=[directory])
            # The operator's base may have another name.
            await publisher.publish(adapter.name, source, PublishOptions(force_base=True))


def _adapters_in(directory: Path) -> list[Path]:
    return sorted(entry for entry in directory.iterdir() if (entry / "adapter_config.json").is_file())
