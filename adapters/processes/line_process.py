"""A child process that answers one question at a time, a line of JSON each way. Inside: ``serve_lines``."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any, Final

from adapters.errors import WorkerProcessDied
from adapters.processes import child
from adapters.processes.answers import Work, answer_of, result_of
from adapters.processes.child import child_environment, python_command
from adapters.processes.limits import LimitExceeded, ResourceLimits

_LONGEST_ANSWER: Final = 16 << 20
"""Bytes."""
_PIECE_BYTES: Final = 64 << 10
_END_S: Final = 5.0
"""Seconds that a process may take to end once it has closed its output."""


@dataclass(frozen=True)
class LineProcess:
    """A running ``python -m MODULE``, or another command. A question that fails ends it."""

    name: str
    process: Process
    log: IO[bytes]
    limits: ResourceLimits | None

    @classmethod
    async def start(
        cls, module: str, *arguments: str, threads: int | None = None, limits: ResourceLimits | None = None
    ) -> LineProcess:
        """Start the process, low in priority; ``limits`` hold for all of its life."""
        command, environment = python_command(module, *arguments), child_environment(threads=threads)
        return await cls.start_command(command, name=module, environment=environment, limits=limits)

    @classmethod
    async def start_command(
        cls,
        command: Sequence[str],
        *,
        name: str,
        environment: Mapping[str, str],
        limits: ResourceLimits | None = None,
        longest_answer: int = _LONGEST_ANSWER,
    ) -> LineProcess:
        """Start another program than a module of ours; ``name`` stands for it in errors."""
        log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        process = await child.start_command(
            command,
            environment=environment,
            niceness=child.NICENESS,
            limits=limits,
            limit=longest_answer,
            stdin=PIPE,
            stdout=PIPE,
            stderr=log.fileno(),
        )
        return cls(name, process, log, limits)

    @property
    def process_id(self) -> int:
        return self.process.pid

    @property
    def is_running(self) -> bool:
        return self.process.returncode is None

    async def ask(self, question: Mapping[str, Any], *, within_s: float | None = None) -> dict[str, Any]:
        """Return the answer to ``question``; one question at a time. Raises as ``result_of`` and ``exchange``."""
        return result_of(json.loads(await self.exchange(question, within_s=within_s)), self.limits)

    async def exchange(self, question: Mapping[str, Any], *, within_s: float | None = None) -> bytes:
        """Return the line that answers ``question``.

        Raises:
            LimitExceeded: it takes longer than ``within_s``.
            WorkerProcessDied: the process ended without an answer, or wrote too long a line.
        """
        try:
            line = await asyncio.wait_for(self._exchange(question), within_s)
            if not line.endswith(b"\n"):
                status = await self._ended()
                if self.limits is not None:
                    self.limits.check_status(status)
                raise WorkerProcessDied(f"{self.name} ended with status {status}", log=child.log_tail(self.log))
        except TimeoutError:
            await self.aclose()
            raise LimitExceeded(f"{within_s:g} seconds") from None
        except ValueError:  # asyncio's for a line beyond its limit
            await self.aclose()
            raise WorkerProcessDied(f"{self.name} wrote too long a line", log="") from None
        except BaseException:
            await self.aclose()  # part of an answer may be left in the pipe
            raise
        return line

    async def _exchange(self, question: Mapping[str, Any]) -> bytes:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(ConnectionError):  # it died: reading shows it
            self.process.stdin.write(json.dumps(question).encode() + b"\n")
            await self.process.stdin.drain()
        return await self.process.stdout.readline()

    async def _ended(self) -> int:
        """Return the exit status; a process that has closed its output and runs on is killed."""
        try:
            return await asyncio.wait_for(self.process.wait(), _END_S)
        except TimeoutError:
            return await child.end(self.process)

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()
        self.log.close()

    async def aclose(self) -> None:
        self.kill()
        assert self.process.stdout is not None
        with suppress(TimeoutError):  # asyncio reports no exit while output waits to be read
            async with asyncio.timeout(_END_S):
                while await self.process.stdout.read(_PIECE_BYTES):
                    pass
        await self.process.wait()


async def run(
    module: str, question: Mapping[str, Any], *, threads: int | None = None, limits: ResourceLimits | None = None
) -> dict[str, Any]:
    """Return the answer of a process of its own to ``question``; raises as ``LineProcess.ask`` does."""
    process = await LineProcess.start(module, threads=threads, limits=limits)
    try:
        return await process.ask(question, within_s=None if limits is None else limits.wall_s)
    finally:
        await process.aclose()


def serve_lines(work: Work) -> None:
    """Answer each question with ``work`` until stdin ends. What libraries print goes to stderr."""
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        for line in sys.stdin:
            with suppress(OSError):  # stderr is a log file of this question only, unless a person runs this
                os.lseek(2, 0, os.SEEK_SET)
                os.ftruncate(2, 0)
            print(json.dumps(answer_of(work, json.loads(line))), file=answers, flush=True)
