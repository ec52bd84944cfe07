"""Which blobs were hashed since they last changed: hashing hundreds of megabytes would take most of each load."""

import time
from pathlib import Path
from typing import Final

from adapters.storage.manifest import Manifest, names_in

_Stats = tuple[tuple[int, int, int, int], ...]
"""Inode, size, mtime and ctime of each file. Only root can set the ctime."""

_TICK_NS: Final = 50_000_000
"""Resolution of a file system's clock: a file written more recently may change again with the same times."""


class VerificationCache:
    """The blobs that this process has hashed, by digest. After a restart each is hashed once more."""

    def __init__(self) -> None:
        self._stats: dict[str, _Stats] = {}

    def is_intact(self, directory: Path, digest: str) -> bool:
        """Whether ``directory`` holds the bytes of ``digest``; they are read only if they may have changed."""
        try:
            old_enough = time.time_ns() - _TICK_NS
            stats = _stats_of(directory)
            if self._stats.get(digest) == stats:
                return True
            self._stats.pop(digest, None)
            if Manifest.of(directory).digest != digest:
                return False
            if _stats_of(directory) == stats and all(changed < old_enough for *_, changed in stats):
                self._stats[digest] = stats
        except OSError:
            return False
        return True

    def forget(self, digest: str) -> None:
        self._stats.pop(digest, None)


def _stats_of(directory: Path) -> _Stats:
    stats = ((directory / name).stat() for name in names_in(directory))
    return tuple((stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for stat in stats)
