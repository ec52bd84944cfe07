"""Runs the adapter compiler as a child process, so that an upload can neither run it out of memory here nor stall us.

The child sees no environment of ours (keys, tokens, proxies), and PEFT in it is told to stay off the network.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import resource
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from adapters.compile.exit_status import COMPILED, OUT_OF_MEMORY, REFUSED
from adapters.compile.report import CompileReport
from adapters.errors import AdapterRefused, AdapterTooCostly, CompilerDied, Fault

NICENESS: Final = 10

_ENVIRONMENT: Mapping[str, str] = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
}
_SHOWN_BYTES = 2000
_PR_SET_PDEATHSIG: Final = 1  # prctl(2)


@dataclass(frozen=True, slots=True)
class CompileLimits:
    """What one compilation may take.

    ``memory_bytes`` bounds what the child allocates (RLIMIT_DATA): torch and PEFT themselves take some 700 MiB, the
    largest weight of the base eight bytes per number several times over. ``cpu_s`` counts one core: the child uses one.
    """

    memory_bytes: int
    cpu_s: int
    wall_s: float


async def compile_adapter(
    source: Path, out: Path, *, base: Path, max_rank: int, compress_to: int | None, limits: CompileLimits
) -> CompileReport:
    """Compile the adapter in ``source`` for the base model in ``base`` and write the canonical files to ``out``.

    ``compress_to``: cut at this rank, whatever is lost (None: refuse what loses more than its kind may). What ``out``
    holds after an error is no adapter: remove it.

    Raises:
        AdapterRefused: with every fault found.
        AdapterTooCostly: it took more than ``limits``.
        CompilerDied: the child ended without an answer.
    """
    arguments = [str(source), str(out), "--base", str(base), "--max-rank", str(max_rank)]
    if compress_to is not None:
        arguments += ["--compress-to", str(compress_to)]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "adapters.compile",
        *arguments,
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
        env=_ENVIRONMENT,
        start_new_session=True,
        preexec_fn=_Confined(limits),
    )
    try:
        said, log = await asyncio.wait_for(process.communicate(), limits.wall_s)
    except TimeoutError:
        raise _too_costly(f"{limits.wall_s:g} seconds") from None
    finally:
        await _end(process)
    assert process.returncode is not None
    return _answer(process.returncode, said, log, limits)


async def _end(process: Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()


def _answer(status: int, said: bytes, log: bytes, limits: CompileLimits) -> CompileReport:
    if status == OUT_OF_MEMORY:
        raise _too_costly(f"{limits.memory_bytes >> 20} MiB of memory")
    if status == -signal.SIGXCPU:
        raise _too_costly(f"{limits.cpu_s} seconds of a core")
    if status in {COMPILED, REFUSED}:
        with suppress(ValueError, TypeError, KeyError):
            answer: dict[str, Any] = json.loads(said)
            if status == COMPILED:
                return CompileReport.from_json(answer)
            raise AdapterRefused([Fault(**fault) for fault in answer["faults"]])
    shown = log[-_SHOWN_BYTES:].decode(errors="replace").strip()
    raise CompilerDied(f"the adapter compiler died with status {status}", log=shown)


def _too_costly(what: str) -> AdapterTooCostly:
    return AdapterTooCostly(
        f"compiling this adapter took more than {what}: send plain LoRA, which takes little, or convert it yourself "
        "with `python -m adapters.compile`"
    )


class _Confined:
    """Run by the new process before its program: requests come first, and no upload takes more than its share."""

    def __init__(self, limits: CompileLimits) -> None:
        self._limits = limits
        self._libc = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded before the fork

    def __call__(self) -> None:
        os.nice(NICENESS)
        # Not RLIMIT_AS: torch reserves address space by the gigabyte that it never touches.
        resource.setrlimit(resource.RLIMIT_DATA, (self._limits.memory_bytes, self._limits.memory_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (self._limits.cpu_s, self._limits.cpu_s + 1))
        if self._libc is not None:
            self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
