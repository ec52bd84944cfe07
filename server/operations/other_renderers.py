"""Versions that were trained on prompts which this server makes otherwise: their answers may be worse."""

from typing import Final

import structlog

from adapters.registry.registry import Registry
from server.engine.protocol import Engine

log = structlog.get_logger(__name__)

_NAMED: Final = 20


async def warn_of_other_renderers(registry: Registry, engine: Engine) -> None:
    """Log the names of the served versions whose renderer is not that of ``engine``."""
    if engine.renderer_sha256 is None:
        return
    renderers = await registry.renderers()
    served = [
        version for adapter in registry.catalog for version in adapter.versions.values() if version.id in renderers
    ]
    names = [version.name for version in served if renderers[version.id] != engine.renderer_sha256]
    if names:
        log.warning(
            "versions were trained on other prompts than this server makes: check --chat-template and --tokenizer",
            versions=names[:_NAMED],
            count=len(names),
        )
