"""Answers questions in forks of a process that has its libraries loaded. Inside: ``serve_forks``.

Starting Python and its libraries for an upload would take longer than most work on it. The process itself reads no
upload. It reads its setup, JSON, from stdin to the end. Then a byte comes over the control socket for each question,
with a socket to the caller: there the child reads the question, a line of JSON with its limits in it, and writes its
answer; after its end the process writes its exit status as the last line.
"""

import asyncio
import json
import os
import select
import signal
import socket
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import IO, Any, Final, NoReturn

from adapters.errors import WorkerProcessDied
from adapters.processes import child
from adapters.processes.answers import Work, answer_of, result_of
from adapters.processes.child import IdleTimer, child_environment
from adapters.processes.limits import LimitExceeded, ResourceLimits

_MARGIN_S: Final = 60.0
"""How much longer than ``wall_s`` an answer is waited for: the process may be starting, or get little of the CPU."""


@dataclass(frozen=True, slots=True)
class _ForkServer:
    process: Process
    control: socket.socket
    setup: Mapping[str, Any]
    log: IO[bytes]

    def release(self) -> None:
        """Have the process end by itself after its last child."""
        self.control.close()
        self.log.close()


class ForkPool:
    """Runs ``python -m MODULE`` from the first question on, for one ``setup`` at a time; answers several at once.

    The process ends after ``idle_s`` seconds without a question (None: never).
    """

    def __init__(self, module: str, *, idle_s: float | None = None) -> None:
        self._module = module
        self._server: _ForkServer | None = None
        self._starting = asyncio.Lock()
        self._idle = IdleTimer(idle_s, self._release)

    @property
    def process_id(self) -> int | None:
        return None if self._server is None else self._server.process.pid

    async def start(self, setup: Mapping[str, Any]) -> None:
        """Start the process for ``setup`` unless it runs; does not wait until it has loaded its libraries."""
        async with self._starting:
            server = self._server
            if server is not None and server.setup == setup and server.process.returncode is None:
                return
            self._release()
            self._server = await _start(self._module, setup)

    async def ask(
        self, setup: Mapping[str, Any], question: Mapping[str, Any], limits: ResourceLimits
    ) -> dict[str, Any]:
        """Return the answer of a child that works within ``limits``.

        Raises as ``result_of``; LimitExceeded also for its time, WorkerProcessDied also if it ends without an answer.
        """
        question = {**question, "resource_limits": asdict(limits)}
        with self._idle.in_use():
            try:
                lines = await asyncio.wait_for(self._exchange(setup, question), limits.wall_s + _MARGIN_S)
            except TimeoutError:
                raise LimitExceeded(f"{limits.wall_s:g} seconds") from None
        status = json.loads(lines[-1]).get("status")
        if isinstance(status, int):
            limits.check_status(status)
        if status != 0 or len(lines) != 2:
            raise WorkerProcessDied(f"a process that worked on the adapter died with status {status}", log="")
        return result_of(json.loads(lines[0]), limits)

    async def _exchange(self, setup: Mapping[str, Any], question: Mapping[str, Any]) -> list[bytes]:
        """Return the lines of an answer; a process that had ended before it was asked is started once more."""
        for _ in range(2):
            await self.start(setup)
            server = self._server
            assert server is not None
            answer = await _ask(server, question)
            if answer:
                return answer.splitlines()
            died = WorkerProcessDied("the process that works on adapters died", log=child.log_tail(server.log))
            if self._server is server:
                self._release()  # asyncio may learn of its exit a moment later
            if answer is not None:
                break
        raise died

    async def aclose(self) -> None:
        self._idle.stop()
        server = self._server
        self._release()
        if server is not None:
            await child.end(server.process)

    def _release(self) -> None:
        if self._server is not None:
            self._server.release()
            self._server = None


async def _start(module: str, setup: Mapping[str, Any]) -> _ForkServer:
    ours, theirs = socket.socketpair()
    log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
    with theirs:
        process = await child.start(
            module,
            str(theirs.fileno()),
            environment=child_environment(threads=1),
            pass_fds=[theirs.fileno()],
            stdin=PIPE,
            stdout=DEVNULL,
            stderr=log.fileno(),
        )
    assert process.stdin is not None
    process.stdin.write(json.dumps(setup).encode())
    process.stdin.close()
    return _ForkServer(process, ours, setup, log)


async def _ask(server: _ForkServer, question: Mapping[str, Any]) -> bytes | None:
    """Return the answer and the child's exit status, b"" if it died before; None: the process had ended already."""
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            socket.send_fds(server.control, [b"+"], [theirs.fileno()])
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


def serve_forks(prepare: Callable[[dict[str, Any]], Work]) -> None:
    """Fork a child for each question until the control socket closes; then wait for those that still work.

    ``prepare`` gets the setup, and returns what the children do.
    """
    control = socket.socket(fileno=int(sys.argv[1]))
    work = prepare(json.load(sys.stdin))
    children: dict[int, tuple[int, int]] = {}  # pipe that closes when the child ends -> its process id, its caller
    is_open = True
    while is_open or children:
        watched = [*children, control.fileno()] if is_open else [*children]
        ready, _, _ = select.select(watched, [], [])
        for ended in children.keys() & set(ready):
            os.close(ended)
            _send_status(*children.pop(ended))
        if is_open and control.fileno() in ready:
            byte, callers, _, _ = socket.recv_fds(control, 1, 1)
            is_open = bool(byte)
            if callers:
                others = [control.fileno(), *children, *(caller for _, caller in children.values())]
                alive, pid = _forked(callers[0], work, others)
                children[alive] = (pid, callers[0])


def _forked(caller: int, work: Work, others: Iterable[int]) -> tuple[int, int]:
    """Return a pipe that closes when the child ends, and its process id. The child closes the ``others``."""
    alive, held = os.pipe()
    if (pid := os.fork()) == 0:
        for other in (alive, *others):
            os.close(other)
        _work_in_child(caller, work)
    os.close(held)
    return alive, pid


def _send_status(pid: int, caller: int) -> None:
    _, status = os.waitpid(pid, 0)
    with socket.socket(fileno=caller) as stream:
        stream.setblocking(False)
        try:
            stream.sendall(json.dumps({"status": os.waitstatus_to_exitcode(status)}).encode() + b"\n")
        except OSError:
            return  # the caller has gone


def _work_in_child(caller: int, work: Work) -> NoReturn:
    status = 1
    try:
        child.die_with_parent()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the log is the process's own, and has no bounds
        with socket.socket(fileno=caller) as stream, stream.makefile("rb") as lines:
            question = json.loads(lines.readline())
            limits = ResourceLimits(**question["resource_limits"])
            signal.setitimer(signal.ITIMER_REAL, limits.wall_s)
            limits.apply()
            stream.sendall(json.dumps(answer_of(work, question)).encode() + b"\n")
        status = 0
    finally:
        os._exit(status)  # nothing of the parent's is cleaned up here
