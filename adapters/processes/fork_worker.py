"""The inside of a process that has its libraries loaded and only forks: a child for each question. See ``fork_pool``.

Starting Python and its libraries for an upload would take longer than most work on it. The process itself reads no
upload. It reads its setup, JSON, from stdin to the end. Then a byte comes over the control socket for each question,
with a socket to the caller: there the child reads the question, a line of JSON with its limits in it, and writes its
answer; after its end the process writes its exit status as the last line.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from adapters.processes.answers import Work, answer_of
from adapters.processes.child import die_with_parent
from adapters.processes.limits import ResourceLimits


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
        die_with_parent()
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
