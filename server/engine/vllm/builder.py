"""Starts vLLM engines. vLLM is imported in the first call, which takes seconds, and not with this module.

Blocking calls run in a thread, so that control routes answer while an engine starts.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
from argparse import Namespace
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from server.engine.protocol import EngineHooks, EngineInfo
from server.engine.vllm import patches
from server.engine.vllm.base_shapes import read_base
from server.engine.vllm.flags import parse_flags

if TYPE_CHECKING:
    from server.engine.vllm.engine import VllmEngine

SHUTDOWN_S = 5.0
STATISTICS_INTERVAL_S = 10.0


class VllmBuilder:
    """Starts vLLM engines.

    Args:
        model: directory or hub id of the base model.
        flags: vLLM's flags as typed on the command line.
        capacity: limit on the residents at once.
    """

    def __init__(self, model: str, flags: Sequence[str], *, capacity: int) -> None:
        self._model = model
        self._flags = tuple(flags)
        self._capacity = capacity
        self._info: EngineInfo | None = None
        self._args = Namespace()

    async def info(self) -> EngineInfo:
        if self._info is None:
            self._info = await asyncio.to_thread(self._read_info)
        return self._info

    def _read_info(self) -> EngineInfo:
        patches.prepare_import()
        with no_collections():
            args = self._args = parse_flags(self._model, self._flags, capacity=self._capacity)
            names = tuple(args.served_model_name or [self._model])
            base, directory = read_base(args, names[0])
        return EngineInfo(base, names, args.max_lora_rank, directory)

    @asynccontextmanager
    async def start(self, hooks: EngineHooks) -> AsyncIterator[VllmEngine]:
        await self.info()
        client = await self._build_client()
        statistics = None
        try:
            from server.engine.vllm.engine import open_engine

            engine = await open_engine(client, self._args, hooks)
            statistics = asyncio.create_task(_log_statistics(client), name="vllm-statistics")
            yield engine
        finally:
            if statistics is not None:
                statistics.cancel()
            await asyncio.to_thread(client.shutdown, SHUTDOWN_S)

    async def _build_client(self) -> Any:
        """Build vLLM's client in a thread; when cancelled, end the processes that the thread waits for."""

        def build() -> Any:
            with no_collections():
                from server.engine.vllm.engine import build_client

            return build_client(self._args)

        building = asyncio.ensure_future(asyncio.to_thread(build))
        try:
            return await asyncio.shield(building)
        except asyncio.CancelledError:
            while not building.done():
                for process in multiprocessing.active_children():
                    process.terminate()
                await asyncio.wait([building], timeout=0.1)
            with suppress(Exception):  # it fails, since its processes ended; if not, it is shut down
                (await building).shutdown(SHUTDOWN_S)
            raise


@contextmanager
def no_collections() -> Iterator[None]:
    """Disable garbage collection, which takes a sixth of an import; freeze what the block has imported."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


async def _log_statistics(client: Any) -> None:
    """Log vLLM's statistics, in place of the lifespan of vLLM's app, which does not run here."""
    while True:
        await asyncio.sleep(STATISTICS_INTERVAL_S)
        await client.do_log_stats()
