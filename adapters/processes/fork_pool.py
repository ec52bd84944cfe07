"""Has work on uploads done in children of a process that stands ready for it (``adapters.processes.forking``)."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import tempfile
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import IO, Any, Final

from adapters.errors import AdapterRefused, Fault, WorkerProcessDied
from adapters.processes.confinement import ENVIRONMENT, DiesWithParent, ResourceLimits, TookTooMuch, end
from adapters.processes.forking import LENGTH_BYTES

_PATIENCE_S: Final = 60.0
"""How much longer than a child may take we wait for it: the process may be starting, or out of the kernel's favour."""
_LAST_WORDS: Final = 2000
"""Bytes."""


@dataclass(frozen=True, slots=True)
class _Running:
    process: Process
    control: socket.socket
    setup: Mapping[str, Any]
    log: IO[bytes]

    def last_words(self) -> str:
        """Return the end of what the process wrote on stderr; its children write nothing there."""
        if self.log.closed:  # somebody else who asked it told them
            return ""
        written = self.log.fileno()  # and pread: the process moves the same position
        return os.pread(written, _LAST_WORDS, max(0, os.fstat(written).st_size - _LAST_WORDS)).decode(errors="replace")

    def let_go(self) -> None:
        """Have the process end by itself when its last child has."""
        self.control.close()
        self.log.close()


class ForkPool:
    """Runs ``python -m PROGRAM`` from the first question on; asks it several at once if need be.

    With ``idle_s`` the process ends when nothing was asked for so long. It is always there for one ``setup``.
    """

    def __init__(self, program: str, *, idle_s: float | None = None) -> None:
        self._program = program
        self._idle_s = idle_s
        self._running: _Running | None = None
        self._starting = asyncio.Lock()
        self._asking = 0
        self._idle: asyncio.TimerHandle | None = None

    @property
    def process_id(self) -> int | None:
        """Of the process that forks."""
        return None if self._running is None else self._running.process.pid

    async def start(self, setup: Mapping[str, Any]) -> None:
        """Get ready for questions; does not wait until it is."""
        async with self._starting:
            running = self._running
            if running is not None and running.setup == setup and running.process.returncode is None:
                return
            self._let_go()
            self._running = await _started(self._program, setup)

    async def ask(
        self, setup: Mapping[str, Any], question: Mapping[str, Any], resource_limits: ResourceLimits
    ) -> dict[str, Any]:
        """Return the answer of a child that works within ``resource_limits``.

        Raises:
            AdapterRefused: what the child found.
            TookTooMuch: the child reached a bound.
            WorkerProcessDied: it ended without an answer.
            OSError: a file could not be read or written.
        """
        self._be_busy()
        asked = {**question, "resource_limits": asdict(resource_limits)}
        try:
            said = await asyncio.wait_for(self._said(setup, asked), resource_limits.wall_s + _PATIENCE_S)
        except TimeoutError:
            raise TookTooMuch(f"{resource_limits.wall_s:g} seconds") from None
        finally:
            self._be_idle()
        return _understood(said.splitlines(), resource_limits)

    async def _said(self, setup: Mapping[str, Any], question: Mapping[str, Any]) -> bytes:
        """Ask; once more where the process was gone before it was asked."""
        for _ in range(2):
            await self.start(setup)
            running = self._running
            assert running is not None
            said = await _ask(running, question)
            if said:
                return said
            died = WorkerProcessDied("the process that works on adapters died", log=running.last_words())
            if self._running is running:
                self._let_go()  # that its exit is known to us may take a moment
            if said is not None:
                break
        raise died

    async def aclose(self) -> None:
        """End the process, whatever it is at."""
        self._be_busy()
        running = self._running
        self._let_go()
        if running is not None:
            await end(running.process)

    def _be_busy(self) -> None:
        self._asking += 1
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _be_idle(self) -> None:
        self._asking -= 1
        if not self._asking and self._idle_s is not None:
            self._idle = asyncio.get_running_loop().call_later(self._idle_s, self._let_go)

    def _let_go(self) -> None:
        if self._running is not None:
            self._running.let_go()
            self._running = None


async def _started(program: str, setup: Mapping[str, Any]) -> _Running:
    ours, theirs = socket.socketpair()
    log = await asyncio.to_thread(tempfile.TemporaryFile)
    with theirs:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", program),
            stdin=theirs.fileno(),
            stdout=DEVNULL,
            stderr=log.fileno(),
            env=ENVIRONMENT,
            start_new_session=True,
            preexec_fn=DiesWithParent(),
        )
    text = json.dumps(setup).encode()
    await asyncio.to_thread(_send, ours, len(text).to_bytes(LENGTH_BYTES, "little") + text)
    return _Running(process, ours, setup, log)


def _send(control: socket.socket, data: bytes) -> None:
    with suppress(ConnectionError):  # it died: the first question tells
        control.sendall(data)


async def _ask(running: _Running, question: Mapping[str, Any]) -> bytes | None:
    """Return all that is said: an answer, if there is one, and how the child ended; None: nobody was there to ask."""
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            socket.send_fds(running.control, [b"+"], [theirs.fileno()])
        except OSError:
            ours.close()
            return None
    reader, writer = await asyncio.open_unix_connection(sock=ours)
    try:
        writer.write(json.dumps(question).encode() + b"\n")
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


def _understood(lines: list[bytes], resource_limits: ResourceLimits) -> dict[str, Any]:
    status = json.loads(lines[-1]).get("status")
    if isinstance(status, int) and (exceeded := resource_limits.exceeded_by(status)) is not None:
        raise TookTooMuch(exceeded)
    if status != 0 or len(lines) != 2:
        raise WorkerProcessDied(f"a process that worked on the adapter died with status {status}", log="")
    answer: dict[str, Any] = json.loads(lines[0])
    if "out_of_memory" in answer:
        raise TookTooMuch(f"{resource_limits.memory_bytes >> 20} MiB of memory")
    if "faults" in answer:
        raise AdapterRefused([Fault(**fault) for fault in answer["faults"]])
    if "errno" in answer:
        raise OSError(answer["errno"], answer["reason"])
    if "died" in answer:
        raise WorkerProcessDied("a process that worked on the adapter failed", log=answer["died"])
    return answer
