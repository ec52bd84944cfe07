"""Which blobs were hashed since they last changed: hashing hundreds of megabytes at each load would be most of it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from adapters.storage.manifest import Manifest, names_in

_Looks = tuple[tuple[int, int, int, int], ...]
"""Inode, size, time of the last write and of the last change, of each file. Nobody but root can set the last."""

_TICK_NS: Final = 50_000_000
"""A file system's clock may stand still for so long: a file that was written just now may change and look the same."""


class VerificationCache:
    """What this process has hashed, by digest. After a restart everything is hashed once more."""

    def __init__(self) -> None:
        self._looks: dict[str, _Looks] = {}

    def is_intact(self, directory: Path, digest: str) -> bool:
        """Tell whether ``directory`` holds the bytes of ``digest``; reads them only where they may have changed."""
        try:
            settled = time.time_ns() - _TICK_NS
            looks = _looks_of(directory)
            if self._looks.get(digest) == looks:
                return True
            self._looks.pop(digest, None)
            if Manifest.of(directory).digest != digest:
                return False
            if _looks_of(directory) == looks and all(changed < settled for *_, changed in looks):
                self._looks[digest] = looks
        except OSError:
            return False
        return True

    def forget(self, digest: str) -> None:
        """Forget a blob that is no more."""
        self._looks.pop(digest, None)


def _looks_of(directory: Path) -> _Looks:
    told = ((directory / name).stat() for name in names_in(directory))
    return tuple((stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for stat in told)
