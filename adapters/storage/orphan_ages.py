"""How long files have belonged to nothing, by the clock of this process."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from time import monotonic

Stats = tuple[tuple[str, int, int], ...]
"""Names, times and sizes of an entry and what is in it: a write changes them."""


class OrphanAges:
    """The orphans that the sweeps of one directory have seen, each with the time from which it has not changed.

    Ages are not taken from mtimes: after a jump of the clock (a virtual machine that resumes, NTP, another machine's
    file system), a file that is being written looks hours old. Two sweeps must see it the same instead, the grace
    apart on the monotonic clock. A restart begins anew, so that what a crash left stays a grace longer.
    """

    def __init__(self) -> None:
        self._seen: dict[str, tuple[object, float]] = {}

    def old(self, orphans: Mapping[str, object], grace_s: float) -> set[str]:
        """Return those of the ``orphans`` (name → stats) that are the same for ``grace_s`` seconds.

        ``orphans`` must be all of the directory: those that are not named are forgotten.
        """
        now, before = monotonic(), self._seen
        self._seen = {
            name: before[name] if name in before and before[name][0] == stats else (stats, now)
            for name, stats in orphans.items()
        }
        return {name for name, (_, since) in self._seen.items() if now - since >= grace_s}


def stats_of(path: Path) -> Stats | None:
    """Return the stats of a file, or of a directory with all that is in it; None if something vanishes meanwhile."""
    try:
        entries = ((entry, entry.lstat()) for entry in (path, *path.rglob("*")))
        return tuple(sorted((str(entry), stat.st_mtime_ns, stat.st_size) for entry, stat in entries))
    except FileNotFoundError:
        return None


def stats_by_name(paths: Collection[Path]) -> dict[str, Stats]:
    """Return the stats of ``paths`` by name, without those that vanish meanwhile."""
    return {path.name: stats for path in paths if (stats := stats_of(path)) is not None}
