"""The inside of a process that has its libraries loaded and does nothing but fork: each piece of work gets a child.

Starting Python and its libraries for an upload would take longer than most work on it. The process itself reads no
upload. It is told on standard input, a socket: first its setup as JSON after its length, then one byte for each piece
of work, with the socket to do it on. There the child reads the question, a line of JSON with its allowance in it, and
writes its answer; when it has ended, its status is written as the last line. Outside: ``adapters.processes.fork_pool``.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from itertools import islice
from typing import Any, Final, NoReturn

from adapters.errors import MAX_FAULTS, AdapterRefused
from adapters.processes.confinement import DiesWithParent, ResourceLimits, hold_to
from adapters.processes.exit_status import is_out_of_memory

LENGTH_BYTES: Final = 8
_SHOWN_CHARACTERS: Final = 2000

Work = Callable[[dict[str, Any]], dict[str, Any]]
"""Answers a question; done in a child."""


def serve(prepared: Callable[[dict[str, Any]], Work]) -> None:
    """Fork a child for each piece of work until the other side is gone; then wait for those that still work.

    ``prepared`` is given the setup, and returns what the children do.
    """
    control, dies = socket.socket(fileno=0), DiesWithParent()
    work = prepared(_setup(control))
    running: dict[int, tuple[int, int]] = {}
    is_wanted = True
    while is_wanted or running:
        asked = {control.fileno()} if is_wanted else set()
        ready, _, _ = select.select([*running, *asked], [], [])
        for ended in running.keys() & set(ready):
            os.close(ended)
            _tell_end(*running.pop(ended))
        if asked & set(ready):
            byte, sent, _, _ = socket.recv_fds(control, 1, 1)
            is_wanted = bool(byte)
            if sent:
                alive, pid = _forked(sent[0], work, dies, others=[control.fileno(), *_descriptors(running)])
                running[alive] = (pid, sent[0])


def _setup(control: socket.socket) -> dict[str, Any]:
    with control.makefile("rb", buffering=0) as stream:
        length = int.from_bytes(_exactly(stream, LENGTH_BYTES), "little")
        setup: dict[str, Any] = json.loads(_exactly(stream, length))
    return setup


def _exactly(stream: Any, length: int) -> bytes:
    read = b""
    while len(read) < length:
        piece = stream.read(length - len(read))
        if not piece:
            raise SystemExit(0)  # the other side is gone
        read += piece
    return read


def _descriptors(running: Mapping[int, tuple[int, int]]) -> Iterator[int]:
    for alive, (_, stream) in running.items():
        yield from (alive, stream)


def _forked(stream: int, work: Work, dies: DiesWithParent, others: Iterable[int]) -> tuple[int, int]:
    """Return what ends when the child does, and the child's process id. The child has nothing of the ``others``."""
    alive, held = os.pipe()
    if (pid := os.fork()) == 0:
        for other in (alive, *others):
            os.close(other)
        _child(stream, work, dies)
    os.close(held)
    return alive, pid


def _tell_end(pid: int, stream: int) -> None:
    _, status = os.waitpid(pid, 0)
    with socket.socket(fileno=stream) as told:
        told.setblocking(False)
        try:
            told.sendall(json.dumps({"status": os.waitstatus_to_exitcode(status)}).encode() + b"\n")
        except OSError:
            return  # nobody waits for it any more


def _child(stream: int, work: Work, dies: DiesWithParent) -> NoReturn:
    status = 1
    try:
        dies()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the log is the process's own, and has no bounds
        with socket.socket(fileno=stream) as answered, answered.makefile("rb") as lines:
            question = json.loads(lines.readline())
            resource_limits = ResourceLimits(**question["resource_limits"])
            signal.setitimer(signal.ITIMER_REAL, resource_limits.wall_s)
            hold_to(resource_limits)
            answered.sendall(json.dumps(_answer(work, question)).encode() + b"\n")
        status = 0
    finally:
        os._exit(status)  # nothing of the parent's is cleaned up here


def _answer(work: Work, question: dict[str, Any]) -> dict[str, Any]:
    try:
        return work(question)
    except AdapterRefused as refused:
        return {"faults": [asdict(fault) for fault in islice(refused.faults, MAX_FAULTS + 1)]}
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told where it can be logged
        if is_out_of_memory(error):
            return {"out_of_memory": True}
        if isinstance(error, OSError):
            return {"errno": error.errno, "reason": str(error.strerror)}
        return {"died": traceback.format_exc()[-_SHOWN_CHARACTERS:]}
