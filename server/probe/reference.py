"""PEFT's scores of an adapter, from ``adapters.compile.reference`` in a process beside the server."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from math import prod
from pathlib import Path
from typing import Any, Final

from adapters.errors import AdapterRefused, Fault, SafetensorsMalformed, WorkerProcessDied
from adapters.processes.child import IdleTimer
from adapters.processes.limits import LimitExceeded
from adapters.processes.line_process import LineProcess
from adapters.storage.disk import in_thread
from adapters.storage.safetensors_header import BASE_HEADER, read_header
from server.memory_limit import memory_limit
from server.probe.verdict import WHERE, ReferenceScores

START_S: Final = 600.0
"""How long the process may take to load the base model."""
ANSWER_S: Final = 120.0
IDLE_S: Final = 600.0
SHARE_OF_MEMORY: Final = 1 / 4
"""The base model in float32 may take this much of the machine unless the operator decides otherwise."""

_FLOAT32_BYTES: Final = 4
_FLOATS: Final = frozenset({"F16", "BF16", "F32"})


class NoReference(Exception):
    """The process died, took too long or never started: nothing is known about the adapter. ``str`` has the reason."""


class PeftReference:
    """PEFT on the base model, in a process that starts on the first question and ends when it is idle.

    Args:
        must_fit: whether the base model has to be small; see ``fits``.
        idle_s: how long after its last answer the process ends.
    """

    def __init__(
        self, base: Callable[[], Awaitable[Path]], *, threads: int, must_fit: bool, idle_s: float = IDLE_S
    ) -> None:
        self._base = base
        self._threads = threads
        self._must_fit = must_fit
        self._process: LineProcess | None = None
        self._idle = IdleTimer(idle_s, self._kill)
        self._one_question = asyncio.Lock()

    @property
    def process_id(self) -> int | None:
        """The id of the process; None: it does not run."""
        return None if self._process is None else self._process.process_id

    async def of(self, adapter: Path, prompts: Sequence[Sequence[int]]) -> ReferenceScores:
        """Return the scores that PEFT computes with the adapter in the directory ``adapter``.

        Raises:
            AdapterRefused: PEFT does not load it; with PEFT's own words.
            NoReference: the process has no answer.
        """
        async with self._one_question:
            with self._idle.in_use():
                try:
                    answer = await self._ask({"adapter": str(adapter), "prompts": prompts})
                except (WorkerProcessDied, LimitExceeded) as failed:
                    raise NoReference(f"PEFT on the base model: {failed}") from failed
        if "refused" in answer:
            found = f"an adapter that PEFT does not load: {answer['refused'][:500]}"
            raise AdapterRefused([Fault(WHERE, found, "one that PEFT loads on this base model")])
        return ReferenceScores(answer["base"], answer["adapter"])

    async def aclose(self) -> None:
        """End the process."""
        self._idle.stop()
        if self._process is not None:
            await self._process.aclose()

    async def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        within_s = ANSWER_S
        if self._process is None or not self._process.is_running:
            base = await self._base()
            if self._must_fit and not await in_thread(fits, base):
                raise NoReference(
                    f"the base model in float32 would take more than {SHARE_OF_MEMORY:.0%} of the memory, or its "
                    "weights are quantised; PATCHBAY_PROBE_REFERENCE=on tries it all the same"
                )
            self._process = await LineProcess.start("adapters.compile.reference", str(base), threads=self._threads)
            within_s += START_S
        return await self._process.ask(question, within_s=within_s)

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process = None


def fits(base: Path) -> bool:
    """Whether the base model in ``base``, in float32, fits in ``SHARE_OF_MEMORY``. Blocks.

    False for a base that is quantised or not in safetensors: PEFT's arithmetic on it would differ from the engine's.
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
