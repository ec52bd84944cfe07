"""Runs Python source that may be hostile: without network, files, environment or other processes, within bounds.

Namespaces of the kernel take away network, processes and all files but Python's own; bubblewrap makes them where it is
installed, else unshare(1) where the kernel lets users make namespaces. ``confined_function`` inside gives up nearly all
system calls as well. Each alone would do; a hole in one of them lets nothing out.
"""

from __future__ import annotations

import json
import math
import platform
import shutil
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Final

from adapters.errors import WorkerProcessDied
from adapters.processes import confined_function, enter_sandbox
from adapters.processes.child import child_environment
from adapters.processes.limits import LimitExceeded
from adapters.processes.line_process import LineProcess

_ARCHITECTURES: Final = frozenset({"x86_64", "aarch64"})
_START_S: Final = 60.0
"""Seconds for the start of Python: the machine may be busy."""
_LONGEST_ANSWER: Final = 64 << 10
_CPU_S: Final = 600
_TRIAL: Final = "def answer(): return 1"
_TRIAL_BYTES: Final = 256 << 20
_VARIABLES: Final = frozenset({"LD_LIBRARY_PATH", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"})
_NAMESPACES: Final = ("--user", "--map-root-user", "--mount", "--pid", "--net", "--ipc", "--uts", "--cgroup")


class NoSandbox(Exception):
    """This machine has no sandbox; the message says why, and what to do about it."""


class SourceFailed(Exception):
    """The source raised an error, or returned something else than a finite number; the message is the traceback."""


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A launcher that works on this machine."""

    launcher: str
    """``bubblewrap`` or ``user namespaces``."""
    command: Sequence[str]
    """Runs Python with ``confined_function`` inside."""

    @classmethod
    def bubblewrap(cls) -> Sandbox:
        return cls("bubblewrap", _bubblewrap_command())

    @classmethod
    def namespaces(cls) -> Sandbox:
        return cls("user namespaces", _unshare_command())

    @classmethod
    async def find(cls) -> Sandbox:
        """Return the first launcher that works.

        Raises:
            NoSandbox: none does.
        """
        faults: list[str] = []
        for sandbox in (cls.bubblewrap(), cls.namespaces()):
            if (fault := await sandbox.fault()) is None:
                return sandbox
            faults.append(fault)
        raise NoSandbox(
            f"this machine has no sandbox ({'; '.join(faults)}): install bubblewrap (most distributions have a package "
            "of this name), or let users make namespaces (sysctl user.max_user_namespaces; in a container, a seccomp "
            "profile that permits unshare and mount)"
        )

    async def fault(self) -> str | None:
        """Return why the launcher does not work here, found by a trial; None: it works."""
        if sys.platform != "linux" or platform.machine() not in _ARCHITECTURES:
            return f"{self.launcher}: needs Linux on x86_64 or aarch64"
        if not Path(self.command[0]).is_absolute():
            return f"{self.command[0]} is not installed"
        try:
            process = await SandboxedFunction.start(self, _TRIAL, "answer", memory_bytes=_TRIAL_BYTES)
            await process.call((), within_s=_START_S)
        except (WorkerProcessDied, LimitExceeded, SourceFailed, OSError) as failed:
            return f"{self.launcher}: {failed} {getattr(failed, 'log', '')[-300:]}".strip()
        await process.aclose()
        return None


@dataclass(slots=True)
class SandboxedFunction:
    """A running process with one source. A call that fails ends it."""

    process: LineProcess
    source: Mapping[str, str]
    is_loaded: bool = False
    used_s: float = 0.0
    """Seconds that its calls took."""

    @classmethod
    async def start(
        cls, sandbox: Sandbox, source: str, function: str, *, memory_bytes: int, cpu_s: int = _CPU_S
    ) -> SandboxedFunction:
        """Start the process and wait until its bounds hold; the source runs with the first call.

        ``cpu_s``: seconds of a core in all its life, for it may go on computing after its answer.

        Raises:
            WorkerProcessDied: it cannot start; ``log`` says why.
            LimitExceeded: it takes too long.
        """
        process = await LineProcess.start_command(
            sandbox.command, name="the sandbox", environment=_environment(), longest_answer=_LONGEST_ANSWER
        )
        await process.exchange({"memory_bytes": memory_bytes, "cpu_s": cpu_s}, within_s=_START_S)
        return cls(process, {"source": source, "function": function})

    async def call(self, arguments: Sequence[Any], *, within_s: float) -> float:
        """Return the number that the function returns for ``arguments``; one call at a time.

        Raises:
            SourceFailed: it failed.
            LimitExceeded: it takes longer than ``within_s``.
            WorkerProcessDied: the process ended, or wrote something else than an answer.
        """
        call = {"arguments": arguments} if self.is_loaded else {**self.source, "arguments": arguments}
        started = monotonic()
        line = await self.process.exchange(call, within_s=within_s)
        self.is_loaded = True
        self.used_s += monotonic() - started
        try:
            return _number(line)
        except BaseException:  # whatever is wrong with the answer, the process is not to be trusted with another call
            self.kill()
            raise

    @property
    def is_running(self) -> bool:
        return self.process.is_running

    def kill(self) -> None:
        self.process.kill()

    async def aclose(self) -> None:
        await self.process.aclose()


def _number(line: bytes) -> float:
    """Return the number in an answer, which a hostile source may have written."""
    try:
        answer: Any = json.loads(line)
        if isinstance(answer, dict) and isinstance(error := answer.get("error"), str):
            raise SourceFailed(error)
        number = float(answer["number"])
    except (ValueError, TypeError, LookupError, OverflowError, RecursionError):
        raise WorkerProcessDied("the source wrote over its answers", log="") from None
    if not math.isfinite(number):
        raise WorkerProcessDied("the source wrote over its answers", log="")
    return number


def _environment() -> dict[str, str]:
    """Return all variables that the source sees. numpy reads the numbers of threads, and may start none."""
    return {name: value for name, value in child_environment(threads=1).items() if name in _VARIABLES}


def _packages() -> list[str]:
    """Return the directories of Python's installed packages."""
    return list(dict.fromkeys(str(Path(sysconfig.get_path(name)).resolve()) for name in ("purelib", "platlib")))


def _paths(program: str) -> list[str]:
    """Return the paths that a sandbox holds: Python, its packages, the libraries of the system, and ``program``."""
    base = Path(sys.base_prefix).resolve()
    system = [Path("/") / name for name in ("lib", "lib64", "usr/lib", "usr/lib64", "etc/ld.so.cache")]
    wanted = [*system, Path(_python()), base / "lib", base / "lib64", *map(Path, _packages()), Path(program)]
    held: list[Path] = []
    for path in wanted:
        if path.exists() and not any(path.is_relative_to(other) for other in held):
            held.append(path)
    return [str(path) for path in held]


def _python() -> str:
    return str(Path(sys.executable).resolve())  # not a virtual environment's link, which says where it lies


def _inside() -> list[str]:
    program = str(Path(confined_function.__file__).resolve())
    return [_python(), "-I", "-S", "-B", "-X", "utf8", program, *_packages()]


def _bubblewrap_command() -> list[str]:
    binds = [part for path in _paths(confined_function.__file__) for part in ("--ro-bind", path, path)]
    bounds = ["--unshare-all", "--unshare-user", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    return [shutil.which("bwrap") or "bwrap", *bounds, *binds, "--remount-ro", "/", "--chdir", "/", "--", *_inside()]


def _unshare_command() -> list[str]:
    entry = str(Path(enter_sandbox.__file__).resolve())
    isolated = [_python(), "-I", "-S", "-B", entry, *_paths(confined_function.__file__), "--", *_inside()]
    return [shutil.which("unshare") or "unshare", *_NAMESPACES, "--fork", "--kill-child", "--", *isolated]
