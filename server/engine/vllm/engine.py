"""vLLM as the engine: its asynchronous client, its own HTTP app as an ASGI value, our gate in its seams."""

from __future__ import annotations

import asyncio
import gc
from argparse import Namespace
from collections.abc import Sequence
from types import SimpleNamespace

from fastapi import FastAPI
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.app import build_app
from vllm.usage.usage_lib import UsageContext
from vllm.utils.gc_utils import freeze_gc_heap
from vllm.v1.engine import utils
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from server.engine.protocol import ASGIApp, Batch, EngineGone, EngineHooks, LoadFailed, Resident, ScoringUnsupported
from server.engine.vllm.cpu import fork_server
from server.engine.vllm.preparation import Preparations
from server.engine.vllm.scores import Scores
from server.engine.vllm.seams import request_for, take_engine_client, take_model_list


def build_client(args: Namespace) -> AsyncLLM:
    """Start vLLM's processes and return their client. Blocks for as long as the model takes to load."""
    if fork_server.is_running():
        utils.get_mp_context = fork_server.EngineContext
    return AsyncLLM.from_engine_args(AsyncEngineArgs.from_cli_args(args), usage_context=UsageContext.OPENAI_API_SERVER)


async def hold(client: AsyncLLM, args: Namespace, hooks: EngineHooks) -> VllmEngine:
    """Return the engine around ``client``, with ``hooks`` in the seams of its HTTP app."""
    unmetered = client.generate
    take_engine_client(client, hooks)
    tasks = await client.get_supported_tasks()
    app = await asyncio.to_thread(build_app, args, tasks, client.model_config)
    await init_app_state(client, app.state, args, tasks)
    app.state.server = SimpleNamespace(should_exit=False)  # vLLM's handler of engine death writes here
    take_model_list(app.state.openai_serving_models, hooks)
    _freeze_heap()
    scores = Scores(client, unmetered) if "generate" in tasks else None
    slot_bytes = sum(await client.collective_rpc("slot_bytes"))
    return VllmEngine(client, app, scores, slots=args.max_loras, slot_bytes=slot_bytes)


def _freeze_heap() -> None:
    """Keep what vLLM imported out of every later collection: a full one takes longer than a token.

    What the engine before this one left behind is thawed first, so that it can be collected.
    """
    gc.unfreeze()
    freeze_gc_heap()


class VllmEngine:
    """A running vLLM engine; see ``Engine``."""

    def __init__(self, client: AsyncLLM, app: FastAPI, scores: Scores | None, *, slots: int, slot_bytes: int) -> None:
        self._client = client
        self._app = app
        self._scores = scores
        self._preparations = Preparations(client)
        self.slots = slots
        self.slot_bytes = slot_bytes
        scheduler = client.vllm_config.scheduler_config
        self.batch = Batch(sequences=scheduler.max_num_seqs, tokens=scheduler.max_num_batched_tokens)
        self.paths = frozenset(route.path for route in app.routes if hasattr(route, "path"))

        self.vocabulary: int = client.model_config.get_vocab_size()

    @property
    def app(self) -> ASGIApp:
        """vLLM's own FastAPI app."""
        return self._app

    @property
    def is_dead(self) -> bool:
        """True once the core process is gone or vLLM asked its server to stop."""
        return bool(self._client.errored or self._app.state.server.should_exit)

    async def load(self, resident: Resident) -> None:
        """See ``Engine.load``. A refused load is always followed by a removal: vLLM may have written half a slot."""
        try:
            await self._preparations.prepare(resident)
            await self._client.add_lora(request_for(resident))
        except Exception as why:  # whatever vLLM raises there, the adapter is not loaded
            if self.is_dead:
                raise EngineGone(str(why)) from why
            await self.unload(resident)
            await self._preparations.drop(resident)
            raise LoadFailed(_last_line(why)) from why

    async def unload(self, resident: Resident) -> None:
        """See ``Engine.unload``."""
        try:
            await self._client.remove_lora(resident.id)
        except EngineDeadError as gone:
            raise EngineGone(str(gone)) from gone

    def encode(self, text: str) -> list[int]:
        """See ``Engine.encode``."""
        tokenizer = self._client.tokenizer
        return [] if tokenizer is None else list(tokenizer.encode(text, add_special_tokens=False))

    async def score(self, resident: Resident | None, prompts: Sequence[Sequence[int]]) -> list[list[float]]:
        """See ``Engine.score``."""
        if self._scores is None:
            raise ScoringUnsupported("the base model generates no text")
        try:
            return await self._scores.of(prompts, None if resident is None else request_for(resident))
        except (EngineDeadError, EngineGenerateError) as gone:
            raise EngineGone(str(gone)) from gone


def _last_line(error: BaseException) -> str:
    """vLLM wraps the worker's traceback in the message; its last line is what a user can act on."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
