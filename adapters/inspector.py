"""Has uploads inspected and brought into canonical form by ``adapters.inspection``, where none can harm us."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from adapters.base_model import BaseModel
from adapters.canonicalizer import Canonical
from adapters.compile.report import CompileReport
from adapters.confinement import ENVIRONMENT, Allowance, DiesWithParent, end
from adapters.disk import space_needed
from adapters.door import Limits
from adapters.errors import AdapterRefused, AdapterTooCostly, CompilerDied, Fault
from adapters.inspection import LENGTH_BYTES
from adapters.report import Report

_PATIENCE_S: Final = 30.0
"""How much longer than the work itself may take we wait for a process that should have been ended."""


@dataclass(frozen=True, slots=True)
class _Nursery:
    """A process that forks inspections for one base model."""

    process: Process
    control: socket.socket
    fingerprint: str


class Inspector:
    """Inspects adapters, several at once if need be. Its process starts with the first, or ahead of it by ``start``."""

    def __init__(self) -> None:
        self._nursery: _Nursery | None = None
        self._starting = asyncio.Lock()

    @property
    def process_id(self) -> int | None:
        """Of the process that forks inspections."""
        return None if self._nursery is None else self._nursery.process.pid

    async def start(self, base: BaseModel) -> None:
        """Get ready to inspect adapters for ``base``; does not wait until it is."""
        async with self._starting:
            nursery = self._nursery
            if nursery is not None and nursery.fingerprint == base.fingerprint and nursery.process.returncode is None:
                return
            if nursery is not None:
                nursery.control.close()  # it ends by itself when its last child has
            self._nursery = await _started(base)

    async def canonicalize(
        self, directory: Path, out: Path, base: BaseModel, limits: Limits, allowance: Allowance
    ) -> Canonical:
        """Do what ``adapters.canonicalizer.canonicalize`` does, within ``allowance``.

        Raises:
            AdapterRefused: with every fault found.
            AdapterTooCostly: it took more than ``allowance``.
            CompilerDied: the process ended without an answer.
            StorageFull: the disk has no space left.
        """
        question: dict[str, Any] = {"directory": _path(directory), "out": _path(out)}
        question |= {"limits": asdict(limits), "allowance": asdict(allowance)}
        await self.start(base)
        assert self._nursery is not None
        try:
            said = await asyncio.wait_for(_ask(self._nursery, question), allowance.wall_s + _PATIENCE_S)
        except TimeoutError:
            raise _too_costly(f"{allowance.wall_s:g} seconds") from None
        return _understood(said.splitlines(), out, allowance)

    async def aclose(self) -> None:
        """End the process, whatever it is at."""
        if self._nursery is not None:
            self._nursery.control.close()
            await end(self._nursery.process)


def _path(directory: Path) -> str:
    return str(directory.absolute())


async def _started(base: BaseModel) -> _Nursery:
    ours, theirs = socket.socketpair()
    with theirs:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "adapters.inspection"),
            stdin=theirs.fileno(),
            stdout=DEVNULL,
            stderr=DEVNULL,
            env=ENVIRONMENT,
            start_new_session=True,
            preexec_fn=DiesWithParent(),
        )
    text = json.dumps({**asdict(base), "modules": dict(base.modules)}).encode()
    await asyncio.to_thread(_send, ours, len(text).to_bytes(LENGTH_BYTES, "little") + text)
    return _Nursery(process, ours, base.fingerprint)


def _send(control: socket.socket, data: bytes) -> None:
    with suppress(ConnectionError):  # it died: the first question tells
        control.sendall(data)


async def _ask(nursery: _Nursery, question: Mapping[str, Any]) -> bytes:
    """Return all that is said: an answer, if there is one, and how the process ended."""
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            socket.send_fds(nursery.control, [b"+"], [theirs.fileno()])
        except OSError:
            ours.close()
            return b""
    reader, writer = await asyncio.open_unix_connection(sock=ours)
    try:
        writer.write(json.dumps(question).encode() + b"\n")
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


def _understood(lines: list[bytes], out: Path, allowance: Allowance) -> Canonical:
    ended = json.loads(lines[-1]) if lines else {}
    status = ended.get("status")
    if isinstance(status, int) and (exceeded := allowance.exceeded_by(status)) is not None:
        raise _too_costly(exceeded)
    if status != 0 or len(lines) != 2:
        raise CompilerDied(f"inspecting the adapter died with status {status}", log="")
    answer: dict[str, Any] = json.loads(lines[0])
    if "out_of_memory" in answer:
        raise _too_costly(f"{allowance.memory_bytes >> 20} MiB of memory")
    if "faults" in answer:
        raise AdapterRefused([Fault(**fault) for fault in answer["faults"]])
    if "errno" in answer:
        with space_needed(out):
            raise OSError(answer["errno"], answer["reason"])
    if "died" in answer:
        raise CompilerDied("inspecting the adapter failed", log=answer["died"])
    made = None if answer["made"] is None else CompileReport.from_json(answer["made"])
    return Canonical(Report.from_json(answer["report"]), made)


def _too_costly(what: str) -> AdapterTooCostly:
    return AdapterTooCostly(
        f"inspecting this adapter took more than {what}: train with a smaller rank, save it in bfloat16, or give the "
        "server more (--max-compile-bytes, --max-compile-s)"
    )
