"""What the stores ask of a file system: directories that survive a power cut, and a full disk by its name."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from adapters.errors import StorageFull

NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextmanager
def room_needed(path: Path) -> Iterator[None]:
    """Turn "no space", "quota" and "file too large" into StorageFull."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise StorageFull(
            f"no room to store the adapter under {path} ({os.strerror(error.errno)}): free some space, "
            "delete versions that are not needed, or give the server a larger --data-dir"
        ) from error


def fsync_directory(path: Path) -> None:
    """Make the names in ``path`` durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
