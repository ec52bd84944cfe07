"""Disk work: off the event loop, durable names, a full disk as StorageFull."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from adapters.errors import StorageFull

P = ParamSpec("P")
T = TypeVar("T")

NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run ``work`` in a thread. A cancelled caller waits for its end too: what follows may delete its files."""
    running = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait({running})
        raise


@contextmanager
def space_needed(path: Path) -> Iterator[None]:
    """Turn "no space", "quota" and "file too large" into StorageFull."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        raise StorageFull(
            f"no space to store the adapter under {path} ({os.strerror(error.errno)}): free some space, "
            "delete versions that are not needed, or give the server a larger --data-dir"
        ) from error


def fsync_directory(path: Path) -> None:
    """Make the names in ``path`` durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
