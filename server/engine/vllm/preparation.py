"""Has vLLM's workers prepare an adapter (``server.engine.vllm.worker_extension``) and waits until all of them did."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from server.engine.protocol import EngineGone, LoadFailed, Resident

LONGEST_REPLY: Final = 2**16
PULSE_S: Final = 0.2
"""How often the engine's life is felt while its workers prepare; a dead one answers nothing."""


class Preparations:
    """Prepares adapters in the workers of ``client``."""

    def __init__(self, client: AsyncLLM) -> None:
        parallel = client.vllm_config.parallel_config
        self._client = client
        self._workers: int = parallel.world_size if parallel.nnodes == 1 else 0  # a reply reaches this machine only

    async def prepare(self, resident: Resident) -> None:
        """Have ``resident`` read and packed; the engine goes on meanwhile.

        Raises:
            LoadFailed: a worker refused the bytes; ``drop`` what the others prepared.
            EngineGone: the engine died.
        """
        with TemporaryDirectory(prefix="patchbay-") as scratch, _line() as line:
            line.bind(reply := str(Path(scratch) / "prepared"))
            if self._workers:
                asked = (resident.name, resident.id, str(resident.path), reply)
                await self._client.collective_rpc("prepare_adapter", args=asked)
            for _ in range(self._workers):
                if reason := (await self._datagram(line)).decode(errors="replace"):
                    raise LoadFailed(reason)

    async def drop(self, resident: Resident) -> None:
        """Have it forgotten where it was prepared and not loaded; a dead engine has forgotten it."""
        with suppress(EngineDeadError):
            await self._client.collective_rpc("drop_prepared_adapter", args=(resident.id,))

    async def _datagram(self, line: socket.socket) -> bytes:
        # One receipt for all pulses: one that a timeout cancels may have taken the datagram already, and lose it.
        receiving = asyncio.ensure_future(asyncio.get_running_loop().sock_recv(line, LONGEST_REPLY))
        try:
            while not self._client.errored:
                if (await asyncio.wait([receiving], timeout=PULSE_S))[0]:
                    return receiving.result()
        finally:
            receiving.cancel()
        raise EngineGone("died while it prepared an adapter")


def _line() -> socket.socket:
    line = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    line.setblocking(False)
    return line
