"""Calls vLLM's workers to prepare an adapter (``server.engine.vllm.worker_extension``), and waits for all of them."""

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

MAX_REPLY_BYTES: Final = 2**16
POLL_S: Final = 0.2
"""How often the client is asked whether its engine is dead, while the workers prepare: a dead worker never replies."""


class PreparationClient:
    """Prepares adapters in the workers of ``client``."""

    def __init__(self, client: AsyncLLM) -> None:
        parallel = client.vllm_config.parallel_config
        self._client = client
        self._workers: int = parallel.world_size if parallel.nnodes == 1 else 0  # replies stay within a machine

    async def prepare(self, resident: Resident) -> None:
        """Read and pack ``resident`` in every worker, beside the steps of the engine.

        Raises:
            LoadFailed: a worker refused the files; the others must still ``drop`` the adapter.
            EngineGone: the engine died.
        """
        with (
            TemporaryDirectory(prefix="patchbay-") as scratch,
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver,
        ):
            receiver.setblocking(False)
            receiver.bind(reply := str(Path(scratch) / "prepared"))
            if self._workers:
                arguments = (resident.name, resident.id, str(resident.path), reply)
                await self._client.collective_rpc("prepare_adapter", args=arguments)
            for _ in range(self._workers):
                if reason := (await self._reply(receiver)).decode(errors="replace"):
                    raise LoadFailed(reason)

    async def drop(self, resident: Resident) -> None:
        """Let every worker forget a prepared adapter that is not going to be loaded."""
        with suppress(EngineDeadError):
            await self._client.collective_rpc("drop_prepared_adapter", args=(resident.id,))

    async def _reply(self, receiver: socket.socket) -> bytes:
        # One call for all polls: a call that a timeout cancels may have taken the datagram already, and loses it.
        receiving = asyncio.ensure_future(asyncio.get_running_loop().sock_recv(receiver, MAX_REPLY_BYTES))
        try:
            while not self._client.errored:
                if (await asyncio.wait([receiving], timeout=POLL_S))[0]:
                    return receiving.result()
        finally:
            receiving.cancel()
        raise EngineGone("died while preparing an adapter")
