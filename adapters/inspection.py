"""``python -m adapters.inspection``: looks at uploads, each in a process of its own that is forked ready to work.

Starting Python and its libraries for an upload would take longer than looking at it. So one process has them loaded
and does nothing but fork; it never reads an upload. It speaks on standard input, a socket: first the base model as
JSON after its length, then one byte for each piece of work, with the socket to do it on. There the child reads the
question, a line of JSON, and writes its answer; when it has ended, its status is written as the last line. See
``adapters.inspector``.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import traceback
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, NoReturn

from adapters.base_model import BaseModel
from adapters.canonicalizer import canonicalize
from adapters.confinement import Allowance, DiesWithParent, hold_to
from adapters.door import Limits
from adapters.errors import AdapterRefused

LENGTH_BYTES: Final = 8
_SHOWN_CHARACTERS: Final = 2000


def main() -> None:
    """Fork a child for each piece of work until the other side is gone; then wait for those that still work."""
    control, dies = socket.socket(fileno=0), DiesWithParent()
    base = _base(control)
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
                alive, pid = _forked(sent[0], base, dies, others=[control.fileno(), *_descriptors(running)])
                running[alive] = (pid, sent[0])


def _base(control: socket.socket) -> BaseModel:
    with control.makefile("rb", buffering=0) as stream:
        length = int.from_bytes(_exactly(stream, LENGTH_BYTES), "little")
        fields = json.loads(_exactly(stream, length))
    modules = {module: (rows, columns) for module, (rows, columns) in fields.pop("modules").items()}
    return BaseModel(modules=modules, **fields)


def _exactly(stream: Any, length: int) -> bytes:
    read = b""
    while len(read) < length:
        piece = stream.read(length - len(read))
        if not piece:
            raise SystemExit(0)  # the other side is gone
        read += piece
    return read


def _descriptors(running: Mapping[int, tuple[int, int]]) -> Iterator[int]:
    for alive, (_, work) in running.items():
        yield from (alive, work)


def _forked(work: int, base: BaseModel, dies: DiesWithParent, others: Iterable[int]) -> tuple[int, int]:
    """Return what ends when the child does, and the child's process id. The child has nothing of the ``others``."""
    alive, held = os.pipe()
    if (pid := os.fork()) == 0:
        for other in (alive, *others):
            os.close(other)
        _child(work, base, dies)
    os.close(held)
    return alive, pid


def _tell_end(pid: int, work: int) -> None:
    _, status = os.waitpid(pid, 0)
    with socket.socket(fileno=work) as stream:
        stream.setblocking(False)
        try:
            stream.sendall(json.dumps({"status": os.waitstatus_to_exitcode(status)}).encode() + b"\n")
        except OSError:
            return  # nobody waits for it any more


def _child(work: int, base: BaseModel, dies: DiesWithParent) -> NoReturn:
    status = 1
    try:
        dies()
        with socket.socket(fileno=work) as stream, stream.makefile("rb") as lines:
            question = json.loads(lines.readline())
            allowance = Allowance(**question["allowance"])
            signal.setitimer(signal.ITIMER_REAL, allowance.wall_s)
            hold_to(allowance)
            answer = _answer(question, base)
            stream.sendall(json.dumps(answer).encode() + b"\n")
        status = 0
    finally:
        os._exit(status)  # nothing of the parent's is cleaned up here


def _answer(question: dict[str, Any], base: BaseModel) -> dict[str, Any]:
    limits = Limits(**question["limits"])
    try:
        canonical = canonicalize(Path(question["directory"]), Path(question["out"]), base, limits)
    except AdapterRefused as refused:
        return {"faults": [asdict(fault) for fault in refused.faults]}
    except MemoryError:
        return {"out_of_memory": True}
    except OSError as error:
        return {"errno": error.errno, "reason": str(error.strerror)}
    except Exception:  # noqa: BLE001 - whatever it is, it is told where it can be logged
        return {"died": traceback.format_exc()[-_SHOWN_CHARACTERS:]}
    made = None if canonical.made is None else canonical.made.to_json()
    return {"report": canonical.report.to_json(), "made": made}


if __name__ == "__main__":
    main()
