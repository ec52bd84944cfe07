"""Starts and ends a child process: ``python -P -m MODULE``, which dies with this process.

Its environment suffices to import the same packages, and holds no secret that it does not need.
"""

import asyncio
import ctypes
import os
import re
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import IO, Any, Final

from adapters.processes.limits import ResourceLimits
from patchbay import IS_INSTALLED, ROOT, check_packages

NICENESS: Final = 10
"""For work that must not delay requests."""

_LIBC: Final = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded before a fork
_PR_SET_PDEATHSIG: Final = 1  # prctl(2)
_TAIL_BYTES: Final = 2000

_NEEDED: Final = ("LD_LIBRARY_PATH", "PYTHONHOME", "TMPDIR")
_SECRET: Final = re.compile(r"^PATCHBAY_|(^|_)(AUTH|CREDENTIALS?|KEYS?|SECRETS?|TOKENS?)(_|$)|PASSW", re.IGNORECASE)
"""Names of API keys, hub tokens, object stores' credentials. PATCHBAY_DATABASE_URL may hold a password."""
_OFFLINE: Final = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "CUDA_VISIBLE_DEVICES": ""}
"""No network, and no accelerator: that is the engine's."""


def child_environment(
    *, inherits: bool = False, secrets: Collection[str] = (), threads: int | None = None
) -> dict[str, str]:
    """Return the environment of a child process.

    Args:
        inherits: the child gets the variables of this process apart from secrets; otherwise almost none of them, no
            network and no accelerator.
        secrets: names of the secrets that an inheriting child needs all the same.
        threads: how many threads OpenMP and OpenBLAS use; None: as many as they choose, or as inherited.
    """
    names = [name for name in os.environ if not _SECRET.search(name) or name in secrets] if inherits else _NEEDED
    environment = {name: os.environ[name] for name in names if name in os.environ}
    if threads is not None:
        environment |= {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
    return environment | ({} if inherits else _OFFLINE) | import_variables() | {"PYTHONUNBUFFERED": "1"}


def import_variables() -> dict[str, str]:
    """Return the environment variables with which a child process imports the same packages as this process.

    Nothing comes from the child's working directory, which an empty entry of PYTHONPATH stands for too. This project
    comes first, except where that would put all of site-packages before the standard library.
    """
    entries = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry not in {"", str(ROOT)}]
    ours = [] if IS_INSTALLED else [str(ROOT)]
    return {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join([*ours, *entries])}


def python_command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs ``module``, without the working directory on ``sys.path``; or ForeignPackage."""
    check_packages()
    return [sys.executable, "-P", "-m", module, *arguments]


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies; only Linux can."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _be_killed_first() -> None:
    """Have the kernel end this process rather than the engine, the largest one, when memory ends (proc(5))."""
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write("800")


def _lower_priority(niceness: int) -> None:
    """Add ``niceness`` to this process's, and give a session of its own the same: autogroups, where the kernel has them
    (sched(7)), share processors between sessions, and a process's niceness counts within its session alone."""
    lowered = os.nice(niceness)
    if os.getsid(0) == os.getpid():
        with suppress(OSError), open("/proc/self/autogroup", "w") as group:
            group.write(str(lowered))


def set_up_child(niceness: int = 0, limits: ResourceLimits | None = None) -> None:
    """Prepare the calling process, between fork and exec: it dies with its parent, within ``limits``."""
    if limits is not None:
        limits.apply()
    _lower_priority(niceness)
    if niceness:
        _be_killed_first()
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
    command = python_command(module, *arguments)
    return await start_command(command, environment=environment, niceness=niceness, limits=limits, **streams)


async def start_command(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    niceness: int = 0,
    limits: ResourceLimits | None = None,
    **streams: Any,
) -> Process:
    """Start another program than a module of ours, as ``start`` does."""
    return await asyncio.create_subprocess_exec(
        *command,
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


class IdleTimer:
    """Calls ``on_idle`` after ``idle_s`` seconds without use (None: never)."""

    def __init__(self, idle_s: float | None, on_idle: Callable[[], None]) -> None:
        self._idle_s = idle_s
        self._on_idle = on_idle
        self._users = 0
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Stop the clock for the length of the block."""
        self._users += 1
        self.stop()
        try:
            yield
        finally:
            self._users -= 1
            if not self._users and self._idle_s is not None:
                self._timer = asyncio.get_running_loop().call_later(self._idle_s, self._on_idle)

    def stop(self) -> None:
        """Stop the clock until the next use ends."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
