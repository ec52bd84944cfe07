"""Starts and ends a child process: ``python -P -m MODULE``, which dies with this process."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import IO, Any, Final

from adapters.processes.limits import ResourceLimits
from patchbay import check_packages

NICENESS: Final = 10
"""For work that must not delay requests."""

_LIBC: Final = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded before a fork
_PR_SET_PDEATHSIG: Final = 1  # prctl(2)
_TAIL_BYTES: Final = 2000


def python_command(module: str, *arguments: str) -> list[str]:
    """Return the command line that runs ``module``, without the working directory on its ``sys.path``.

    Raises:
        ForeignPackage: another package would be imported in place of one of ours.
    """
    check_packages()
    return [sys.executable, "-P", "-m", module, *arguments]


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies; only Linux can."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def set_up_child(niceness: int = 0, limits: ResourceLimits | None = None) -> None:
    """Prepare the calling process, between fork and exec: it dies with its parent, within ``limits``."""
    if limits is not None:
        limits.apply()
    os.nice(niceness)
    die_with_parent()


async def start(
    module: str,
    *arguments: str,
    environment: Mapping[str, str],
    niceness: int = 0,
    limits: ResourceLimits | None = None,
    **streams: Any,
) -> Process:
    """Start ``module``; ``streams`` go to ``asyncio.create_subprocess_exec``. ``limits.wall_s`` is not enforced."""
    return await asyncio.create_subprocess_exec(
        *python_command(module, *arguments),
        env=environment,
        start_new_session=True,  # a terminal's Ctrl-C is for the parent
        preexec_fn=partial(set_up_child, niceness, limits),
        **streams,
    )


def log_tail(log: IO[bytes]) -> str:
    """Return the end of what a child wrote into the file ``log``; empty once that is closed."""
    if log.closed:
        return ""
    size = os.fstat(log.fileno()).st_size  # and pread: the child moves the position
    return os.pread(log.fileno(), _TAIL_BYTES, max(0, size - _TAIL_BYTES)).decode(errors="replace").strip()


async def end(process: Process) -> int:
    """Kill ``process`` if it still runs, and return its exit status."""
    with suppress(ProcessLookupError):
        process.kill()
    return await process.wait()
