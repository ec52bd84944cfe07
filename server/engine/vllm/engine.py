"""vLLM as the engine: its asynchronous client, and its own HTTP app as an ASGI value that calls ``EngineHooks``."""

from __future__ import annotations

import asyncio
import gc
from argparse import Namespace
from collections.abc import Sequence

from fastapi import FastAPI
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.app import build_app
from vllm.usage.usage_lib import UsageContext
from vllm.utils.gc_utils import freeze_gc_heap
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from server.engine.protocol import ASGIApp, Batch, EngineGone, EngineHooks, LoadFailed, Resident, ScoringUnsupported
from server.engine.vllm import patches
from server.engine.vllm.hooks import ResolvedAdapters, lora_request, metered, resolver
from server.engine.vllm.preparation import PreparationClient
from server.engine.vllm.scores import Scorer


def build_client(args: Namespace) -> AsyncLLM:
    """Start vLLM's processes and return their client. Blocks for as long as the model takes to load."""
    patches.fork_engine_core()
    return AsyncLLM.from_engine_args(AsyncEngineArgs.from_cli_args(args), usage_context=UsageContext.OPENAI_API_SERVER)


async def open_engine(client: AsyncLLM, args: Namespace, hooks: EngineHooks) -> VllmEngine:
    """Return the engine of ``client``; its HTTP app calls ``hooks``."""
    generate, running = client.generate, client.output_processor.external_req_ids
    patches.meter_generations(client, metered(generate, hooks, running), metered(client.encode, hooks, running))
    tasks = await client.get_supported_tasks()
    app = await asyncio.to_thread(build_app, args, tasks, client.model_config)
    await init_app_state(client, app.state, args, tasks)
    patches.record_engine_death(app)
    patches.resolve_models(app.state.openai_serving_models, ResolvedAdapters(hooks), resolver(hooks))
    _freeze_heap()
    scorer = Scorer(client, generate) if "generate" in tasks else None
    slot_bytes = sum(await client.collective_rpc("slot_bytes"))
    return VllmEngine(client, app, scorer, slots=args.max_loras, slot_bytes=slot_bytes)


def _freeze_heap() -> None:
    """Exclude all objects from later garbage collections: a full one takes longer than a token.

    Those of an earlier engine are thawed first, so that they can be collected.
    """
    gc.unfreeze()
    freeze_gc_heap()


class VllmEngine:
    """A running vLLM engine; see ``Engine``."""

    def __init__(self, client: AsyncLLM, app: FastAPI, scorer: Scorer | None, *, slots: int, slot_bytes: int) -> None:
        self._client = client
        self._state = app.state
        self._scorer = scorer
        self._preparation = PreparationClient(client)
        self.app: ASGIApp = app
        self.slots = slots
        self.slot_bytes = slot_bytes
        scheduler = client.vllm_config.scheduler_config
        self.batch = Batch(sequences=scheduler.max_num_seqs, tokens=scheduler.max_num_batched_tokens)
        self.paths = frozenset(route.path for route in app.routes if hasattr(route, "path"))
        self.vocabulary: int = client.model_config.get_vocab_size()

    @property
    def is_dead(self) -> bool:
        """True once the core process is gone or vLLM's error handler stops the server."""
        return bool(self._client.errored or self._state.server.should_exit)

    async def load(self, resident: Resident) -> None:
        """See ``Engine.load``. A refused load is followed by a removal: vLLM may have written half a slot."""
        try:
            await self._preparation.prepare(resident)
            await self._client.add_lora(lora_request(resident))
        except Exception as why:  # whatever vLLM raises there, the adapter is not loaded
            if self.is_dead:
                raise EngineGone(str(why)) from why
            await self.unload(resident)
            await self._preparation.drop(resident)
            raise LoadFailed(_last_line(why)) from why

    async def unload(self, resident: Resident) -> None:
        try:
            await self._client.remove_lora(resident.id)
        except EngineDeadError as gone:
            raise EngineGone(str(gone)) from gone

    def encode(self, text: str) -> list[int]:
        tokenizer = self._client.tokenizer
        return [] if tokenizer is None else list(tokenizer.encode(text, add_special_tokens=False))

    async def score(self, resident: Resident | None, prompts: Sequence[Sequence[int]]) -> list[list[float]]:
        if self._scorer is None:
            raise ScoringUnsupported("the base model generates no text")
        try:
            return await self._scorer.score(prompts, None if resident is None else lora_request(resident))
        except (EngineDeadError, EngineGenerateError) as gone:
            raise EngineGone(str(gone)) from gone


def _last_line(error: BaseException) -> str:
    """Return the last line of ``error``, the useful one: vLLM puts the worker's traceback into the message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
