"""Memory that this process can use: the machine's, or less in a container; all of it, and what is free now."""

import os
from contextlib import suppress
from pathlib import Path

_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Of control groups, version 2 and version 1; without a limit, "max" or a number beyond any machine."""
_USAGE = (
    (_LIMITS[0], Path("/sys/fs/cgroup/memory.current"), Path("/sys/fs/cgroup/memory.stat"), "inactive_file"),
    (
        _LIMITS[1],
        _LIMITS[1].with_name("memory.usage_in_bytes"),
        _LIMITS[1].with_name("memory.stat"),
        "total_inactive_file",
    ),
)
"""Of each version: limit, usage, statistics, and the name there of the page cache that can be dropped."""


def memory_limit() -> int:
    """Return the memory of the machine or of this container, whichever is less, in bytes."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for limit in _LIMITS:
        with suppress(OSError, ValueError):
            limits.append(int(limit.read_text()))
    return min(limits)


def free_memory() -> int:
    """Return the bytes that can be allocated without swapping: page cache that can be dropped counts as free."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = [next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))]
    for limit, usage, statistics, cached in _USAGE:
        with suppress(OSError, ValueError, KeyError):
            held = dict(line.split() for line in statistics.read_text().splitlines())
            free.append(int(limit.read_text()) - int(usage.read_text()) + int(held[cached]))
    return max(0, min(free))
