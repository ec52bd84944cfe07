"""vLLM as the engine: its asynchronous client, its own HTTP app as an ASGI value, our gate in its seams.

The engine is built in a thread, so that control routes answer while it starts; only what needs the loop runs on it.
vLLM's lifespan does not run for a held app, so its one background duty (statistics) is done here.
"""

from __future__ import annotations

import asyncio
import os
from argparse import Namespace
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

from server.engine.base_shapes import read_base
from server.engine.engine import ASGIApp, EngineGone, Gate, LoadFailed, Offer, Resident
from server.engine.flags import parse_flags

STATISTICS_INTERVAL_S = 10.0
SHUTDOWN_S = 5.0


class VllmBuilder:
    """Starts vLLM engines for ``model`` (a directory or a hub id) with vLLM's own ``flags``.

    Args:
        model: directory or hub id of the base model.
        flags: vLLM's flags as typed on the command line.
        capacity: how many residents we will hold at once.
    """

    def __init__(self, model: str, flags: Sequence[str], *, capacity: int) -> None:
        self._model = model
        self._flags = tuple(flags)
        self._capacity = capacity
        self._offer: Offer | None = None
        self._args: Namespace | None = None

    async def offer(self) -> Offer:
        """See ``EngineBuilder.offer``."""
        if self._offer is None:
            self._offer = await asyncio.to_thread(self._read_offer)
        return self._offer

    def _read_offer(self) -> Offer:
        _prepare_environment()
        args = self._args = parse_flags(self._model, self._flags, capacity=self._capacity)
        names = tuple(args.served_model_name or [self._model])
        return Offer(read_base(args, names[0]), names, args.max_lora_rank)

    @asynccontextmanager
    async def start(self, gate: Gate) -> AsyncIterator[VllmEngine]:
        """See ``EngineBuilder.start``."""
        await self.offer()
        assert self._args is not None
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.async_llm import AsyncLLM

        def build() -> AsyncLLM:
            engine_args = AsyncEngineArgs.from_cli_args(self._args)
            return AsyncLLM.from_engine_args(engine_args, usage_context=UsageContext.OPENAI_API_SERVER)

        client = await asyncio.to_thread(build)
        statistics = None
        try:
            app = await _held_app(client, self._args, gate)
            statistics = asyncio.create_task(_log_statistics(client), name="vllm-statistics")
            yield VllmEngine(client, app, slots=self._args.max_loras)
        finally:
            if statistics is not None:
                statistics.cancel()
            await asyncio.to_thread(client.shutdown, SHUTDOWN_S)


class VllmEngine:
    """A running vLLM engine; see ``Engine``."""

    def __init__(self, client: Any, app: Any, *, slots: int) -> None:
        self._client = client
        self._app = app
        self.slots = slots
        self.paths = frozenset(route.path for route in app.routes if hasattr(route, "path"))

    @property
    def app(self) -> ASGIApp:
        """vLLM's own FastAPI app."""
        app: ASGIApp = self._app
        return app

    @property
    def is_dead(self) -> bool:
        """True once the core process is gone or vLLM asked its server to stop."""
        return bool(self._client.errored or self._app.state.server.should_exit)

    async def load(self, resident: Resident) -> None:
        """See ``Engine.load``. A refused load is always followed by a removal: vLLM may have written half a slot."""
        from server.engine.seams import request_for

        try:
            await self._client.add_lora(request_for(resident))
        except Exception as why:  # whatever vLLM raises there, the adapter is not loaded
            if self.is_dead:
                raise EngineGone(str(why)) from why
            await self.unload(resident)
            raise LoadFailed(_last_line(why)) from why

    async def unload(self, resident: Resident) -> None:
        """See ``Engine.unload``."""
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            await self._client.remove_lora(resident.id)
        except EngineDeadError as gone:
            raise EngineGone(str(gone)) from gone

    async def loaded(self) -> frozenset[int]:
        """See ``Engine.loaded``."""
        return frozenset(await self._client.list_loras())


def _prepare_environment() -> None:
    """Set what vLLM reads from its environment; before its first import."""
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"  # opens resolve_lora; vLLM's own load routes stay unreachable


async def _held_app(client: Any, args: Namespace, gate: Gate) -> Any:
    """Return vLLM's app around ``client`` with our gate in its seams."""
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.app import build_app
    from vllm.utils.gc_utils import freeze_gc_heap

    from server.engine.seams import take_engine_client, take_model_list

    take_engine_client(client, gate)
    tasks = await client.get_supported_tasks()
    app = build_app(args, tasks, client.model_config)
    await init_app_state(client, app.state, args, tasks)
    app.state.server = SimpleNamespace(should_exit=False)  # vLLM's handler of engine death writes here
    take_model_list(app.state.openai_serving_models, gate)
    freeze_gc_heap()  # a full collection of what vLLM imported takes longer than a token
    return app


async def _log_statistics(client: Any) -> None:
    while True:
        await asyncio.sleep(STATISTICS_INTERVAL_S)
        await client.do_log_stats()


def _last_line(error: BaseException) -> str:
    """vLLM wraps the worker's traceback in the message; its last line is what a user can act on."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
