"""A file in the data directory that a server with API keys leaves: it stays closed if its database loses the keys."""

import asyncio
from pathlib import Path
from typing import Final

import structlog

from adapters.storage.disk import in_thread
from server.access.key_ring import KeyRing

log = structlog.get_logger(__name__)

HAD_KEYS: Final = "had-keys"


def obey(keys: KeyRing, data_dir: Path) -> None:
    """Keep a server that had keys closed, although its database has lost them."""
    mark = data_dir / HAD_KEYS
    if keys.is_empty and mark.exists():
        keys.remember_keys()
        log.error(
            "this server had API keys, and its database has none: every request is refused until one is created; "
            "restore the database, or remove the mark to serve without keys",
            mark=str(mark),
        )


async def leave(keys: KeyRing, data_dir: Path, every_s: float) -> None:
    """Leave the mark once the server has keys. They come from other processes too, so it looks every ``every_s`` s."""
    while keys.is_empty:  # noqa: ASYNC110
        await asyncio.sleep(every_s)
    await in_thread((data_dir / HAD_KEYS).touch)
