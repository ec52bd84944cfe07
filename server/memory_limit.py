"""Memory that this process can use: the machine's, or less in a container."""

import os
from contextlib import suppress
from pathlib import Path

_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Of control groups, version 2 and version 1; without a limit, "max" or a number beyond any machine."""


def memory_limit() -> int:
    """Return the memory of the machine or of this container, whichever is less, in bytes."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for limit in _LIMITS:
        with suppress(OSError, ValueError):
            limits.append(int(limit.read_text()))
    return min(limits)
