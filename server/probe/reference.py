"""PEFT's opinion of an adapter: the server's half of ``adapters.compile.reference``, a process asked line by line.

It starts with the first question, ends after some idle minutes and dies with this one.
"""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import Any, Final

from adapters.errors import AdapterRefused, Fault, SafetensorsMalformed
from adapters.processes.confinement import DiesWithParent
from adapters.storage.disk import in_thread
from adapters.storage.safetensors_header import BASE_HEADER, read_header
from server.memory_limit import memory_limit
from server.probe.verdict import WHERE, ReferenceScores

START_S: Final = 600.0
ANSWER_S: Final = 120.0
IDLE_S: Final = 600.0
SHARE_OF_MEMORY: Final = 1 / 4
"""The base model in float32 may take this much of the machine where nobody said otherwise."""

_LONGEST_ANSWER: Final = 16 * 2**20
_FLOAT32_BYTES: Final = 4
_FLOATS: Final = frozenset({"F16", "BF16", "F32"})
_ENVIRONMENT: Final = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "CUDA_VISIBLE_DEVICES": ""}
"""No keys, tokens and proxies of ours; no network; the accelerator is the engine's."""


class NoReference(Exception):
    """The process died, took too long or never started: nothing is known about the adapter. Says why."""


class PeftReference:
    """PEFT on the base model, in a process that runs while it is needed.

    Args:
        base: returns the base model's directory.
        threads: how many the process computes on.
        must_fit: whether the base model has to be small; see ``fits``.
        idle_s: how long after its last answer the process ends.
    """

    def __init__(
        self, base: Callable[[], Awaitable[Path]], *, threads: int, must_fit: bool, idle_s: float = IDLE_S
    ) -> None:
        self._base = base
        self._threads = threads
        self._must_fit = must_fit
        self._idle_s = idle_s
        self._process: Process | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._turn = asyncio.Lock()

    @property
    def process_id(self) -> int | None:
        """Of the process that runs at present."""
        return None if self._process is None else self._process.pid

    async def of(self, adapter: Path, prompts: Sequence[Sequence[int]]) -> ReferenceScores:
        """Return what PEFT computes with the adapter in the directory ``adapter``.

        Raises:
            AdapterRefused: PEFT does not take it; with its own words.
            NoReference: the process could not say.
        """
        async with self._turn:
            self._be_busy()
            try:
                answer = await self._asked({"adapter": str(adapter), "prompts": prompts})
            except BaseException:
                await self._end()  # half an answer may be left in the pipe
                raise
            self._be_idle()
        if "refused" in answer:
            found = f"an adapter that PEFT does not load: {answer['refused'][:500]}"
            raise AdapterRefused([Fault(WHERE, found, "one that PEFT loads on this base model")])
        return ReferenceScores(answer["base"], answer["adapter"])

    async def aclose(self) -> None:
        """End the process."""
        self._be_busy()
        await self._end()

    # -- inside ------------------------------------------------------------------------------------------------

    async def _asked(self, question: dict[str, Any]) -> dict[str, Any]:
        if self._process is None or self._process.returncode is not None:
            self._process = await self._started()
            await self._line(self._process, START_S)
        assert self._process.stdin is not None
        with suppress(ConnectionError):  # it died: reading tells
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            await self._process.stdin.drain()
        return await self._line(self._process, ANSWER_S)

    async def _started(self) -> Process:
        base = await self._base()
        if self._must_fit and not await in_thread(fits, base):
            raise NoReference(
                f"the base model in float32 would take more than {SHARE_OF_MEMORY:.0%} of the memory, or its weights "
                "are quantised; PATCHBAY_PROBE_REFERENCE=on tries it all the same"
            )
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "adapters.compile.reference", str(base)),
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            limit=_LONGEST_ANSWER,
            env={**_ENVIRONMENT, "OMP_NUM_THREADS": str(self._threads)},
            start_new_session=True,  # a terminal's Ctrl-C is for its parent
            preexec_fn=DiesWithParent(),
        )

    async def _line(self, process: Process, within_s: float) -> dict[str, Any]:
        assert process.stdout is not None
        try:
            line = await asyncio.wait_for(process.stdout.readline(), within_s)
        except TimeoutError:
            raise NoReference(f"PEFT's process did not answer within {within_s:.0f} s") from None
        if not line.endswith(b"\n"):
            raise NoReference(f"PEFT's process ended with status {await process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _be_busy(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _be_idle(self) -> None:
        if self._process is not None:
            self._idle = asyncio.get_running_loop().call_later(self._idle_s, self._kill)

    def _kill(self) -> Process | None:
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError):
                process.kill()
        return process

    async def _end(self) -> None:
        if (process := self._kill()) is not None:
            await process.wait()


def fits(base: Path) -> bool:
    """Whether the base model in ``base`` is small enough, in float32, to be held beside everything else. Blocks.

    One that is quantised or not in safetensors is not: PEFT's arithmetic on it would be another one.
    """
    try:
        tensors = [
            tensor for file in base.glob("*.safetensors") for tensor in read_header(file, BASE_HEADER).tensors.values()
        ]
    except (OSError, SafetensorsMalformed):
        return False
    if not tensors or not _FLOATS.issuperset(tensor.dtype for tensor in tensors):
        return False
    needed = _FLOAT32_BYTES * sum(prod(tensor.shape) for tensor in tensors)
    return needed <= SHARE_OF_MEMORY * memory_limit()
