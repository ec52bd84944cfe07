"""vLLM as the engine: its asynchronous client, and its own HTTP app as an ASGI value that calls ``EngineHooks``."""

from __future__ import annotations

import asyncio
import gc
from argparse import Namespace
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import chain
from math import fsum
from typing import Any, Final
from uuid import uuid4

from fastapi import FastAPI
from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.app import build_app
from vllm.inputs import tokens_input
from vllm.sampling_params import RequestOutputKind
from vllm.usage.usage_lib import UsageContext
from vllm.utils.gc_utils import freeze_gc_heap
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from server.engine.protocol import (
    AnswerReading,
    ASGIApp,
    Batch,
    EngineGone,
    EngineHooks,
    LoadFailed,
    Resident,
    Sampled,
    ScoringUnsupported,
    StartRefused,
)
from server.engine.vllm import lora_support, media, patches
from server.engine.vllm.hooks import ResolvedAdapters, lora_request, metered, with_prepared_body
from server.engine.vllm.patches import Generate
from server.engine.vllm.preparation import PreparationClient
from trainer.rendering.serving_renderer import digest

LAST: Final = 2**20
"""A priority behind every other request's, where vLLM runs with ``--scheduling-policy priority``."""

_WHOLE: Final = RequestOutputKind.FINAL_ONLY
_ONE_TOKEN: Final[dict[str, Any]] = {"max_tokens": 1, "temperature": 0.0, "output_kind": _WHOLE}


def build_client(args: Namespace) -> AsyncLLM:
    """Start vLLM's processes and return their client. Blocks for as long as the model takes to load."""
    patches.fork_engine_core()
    patches.quiet_engine_core()
    return AsyncLLM.from_engine_args(AsyncEngineArgs.from_cli_args(args), usage_context=UsageContext.OPENAI_API_SERVER)


async def open_engine(client: AsyncLLM, args: Namespace, hooks: EngineHooks, modules: Iterable[str]) -> VllmEngine:
    """Return the engine of ``client``; its HTTP app calls ``hooks``. ``modules``: the base model's.

    Raises:
        StartRefused: vLLM cannot serve adapters on this base model here.
    """
    if (reason := lora_support.experts_on_a_cpu(client)) is not None:
        raise StartRefused(reason)
    generate, running = client.generate, client.output_processor.external_req_ids
    patches.meter_generations(client, metered(generate, hooks, running), metered(client.encode, hooks, running))
    patches.count_no_adapters(client)
    media.register()
    tasks = await client.get_supported_tasks()
    try:
        app = await asyncio.to_thread(build_app, args, tasks, client.model_config)
        await init_app_state(client, app.state, args, tasks)
    except Exception as why:  # whatever the operator's templates, parsers and middleware raise, they raise it again
        if client.errored:
            raise
        raise StartRefused(f"vLLM's HTTP app cannot be built with these flags: {_causes(why)}") from why
    patches.record_engine_death(app)
    patches.prepare_bodies(app, partial(with_prepared_body, hooks=hooks))
    adapters = ResolvedAdapters(hooks)
    patches.resolve_models(app.state.openai_serving_models, adapters, adapters.resolve)
    gc.unfreeze()  # the objects of an earlier engine, so that they can be collected
    freeze_gc_heap()  # a full collection takes longer than a token
    slot_bytes = sum(await client.collective_rpc("slot_bytes"))
    unserved = await client.collective_rpc("unserved_modules", args=(list(modules),))
    generate_text = generate if "generate" in tasks else None
    return VllmEngine(client, app, generate_text, args.max_loras, slot_bytes, frozenset(chain.from_iterable(unserved)))


def _causes(error: BaseException | None) -> str:
    """Return the messages of ``error`` and of its causes, the last one first."""
    messages: list[str] = []
    while error is not None:
        messages.append(str(error) or type(error).__name__)
        error = error.__cause__
    return ": ".join(dict.fromkeys(messages))


class VllmEngine:
    """A running vLLM engine; see ``Engine``.

    ``generate`` is the client's own method, which is not metered; None if the base model generates no text.
    """

    def __init__(
        self,
        client: AsyncLLM,
        app: FastAPI,
        generate: Generate | None,
        slots: int,
        slot_bytes: int,
        unserved_modules: frozenset[str],
    ) -> None:
        self._client = client
        self._state = app.state
        self._generate = generate
        self._preparation = PreparationClient(client)
        self.app: ASGIApp = app
        self.takes_tools: bool = app.state.args.tool_call_parser is not None
        self.slots = slots
        self.slot_bytes = slot_bytes
        self.unserved_modules = unserved_modules
        scheduler = client.vllm_config.scheduler_config
        self.batch = Batch(sequences=scheduler.max_num_seqs, tokens=scheduler.max_num_batched_tokens)
        self.paths = frozenset(route.path for route in app.routes if hasattr(route, "path"))
        has_chats = generate is not None and client.tokenizer is not None  # None with --skip-tokenizer-init
        self.renderer_sha256 = digest(app.state.online_renderer) if has_chats else None
        self.vocabulary: int = client.model_config.get_vocab_size()
        self.context: int = client.model_config.max_model_len

    @property
    def is_dead(self) -> bool:
        """True once the core process is gone or vLLM's error handler stops the server."""
        return bool(self._client.errored or self._state.server.should_exit)

    async def ping(self) -> None:
        try:
            await self._client.collective_rpc("check_health")
        except EngineDeadError as gone:
            raise EngineGone(str(gone)) from gone

    def kill(self) -> None:
        """Kill the core; its workers end with it, and vLLM's monitor marks the client as errored."""
        for process in self._client.engine_core.resources.engine_manager.processes:
            process.kill()

    async def load(self, resident: Resident) -> None:
        """A refused load is followed by a removal: vLLM may have written half a slot."""
        try:
            await self._preparation.prepare(resident)
            await self._client.add_lora(lora_request(resident))
        except Exception as why:  # whatever vLLM raises there, the adapter is not loaded
            if self.is_dead:
                raise EngineGone(str(why)) from why
            await self.unload(resident)
            await self._preparation.drop(resident)
            last_line = str(why).strip().rpartition("\n")[2].strip()  # those before are the worker's traceback
            raise LoadFailed(last_line or type(why).__name__) from why

    async def unload(self, resident: Resident) -> None:
        try:
            await self._client.remove_lora(resident.id)
        except EngineDeadError as gone:
            raise EngineGone(str(gone)) from gone

    def encode(self, text: str) -> list[int]:
        tokenizer = self._client.tokenizer
        return [] if tokenizer is None else list(tokenizer.encode(text, add_special_tokens=False))

    async def score(self, resident: Resident | None, prompts: Sequence[Sequence[int]]) -> list[list[float]]:
        """Score one prompt at a time, so that others in the batch hardly wait."""
        outputs = [await self._generated(resident, prompt, _scoring()) for prompt in prompts]
        return [_scores(prompt, output.prompt_logprobs) for prompt, output in zip(prompts, outputs, strict=True)]

    async def read(self, resident: Resident | None, prompt: Sequence[int], answer: Sequence[int]) -> AnswerReading:
        output = await self._generated(resident, [*prompt, *answer], _scoring())
        read = [at[token] for token, at in zip(answer, output.prompt_logprobs[len(prompt) :], strict=True)]
        return AnswerReading(fsum(each.logprob for each in read), all(each.rank == 1 for each in read))

    async def sample(
        self,
        resident: Resident | None,
        prompt: Sequence[int],
        *,
        samples: int,
        max_tokens: int,
        seed: int,
        temperature: float = 1.0,
    ) -> list[Sampled]:
        drawn = {"n": samples, "temperature": temperature, "seed": seed, "max_tokens": max_tokens}
        sampling = SamplingParams(**drawn, logprobs=0, output_kind=_WHOLE)
        output = await self._generated(resident, prompt, sampling)
        return [
            Sampled(
                tuple(answer.token_ids),
                tuple(each[token].logprob for token, each in zip(answer.token_ids, answer.logprobs, strict=True)),
                answer.text,
            )
            for answer in output.outputs
        ]

    async def next_logprobs(
        self, resident: Resident | None, prompt: Sequence[int], tokens: Sequence[int]
    ) -> list[float]:
        """Have the engine write each token: ``logprob_token_ids`` would take others in the batch their logprobs."""
        found = []
        for token in tokens:  # the second prompt is in the prefix cache
            sampling = SamplingParams(logprobs=0, allowed_token_ids=[token], **_ONE_TOKEN)
            (logprobs,) = (await self._generated(resident, prompt, sampling)).outputs[0].logprobs
            found.append(float(logprobs[token].logprob))  # of all tokens: computed before the others are excluded
        return found

    async def _generated(self, resident: Resident | None, prompt: Sequence[int], sampling: SamplingParams) -> Any:
        """Return vLLM's one output for ``prompt``.

        Raises:
            ScoringUnsupported: the base model generates no text.
            EngineGone: the engine died.
        """
        if self._generate is None:
            raise ScoringUnsupported("the base model generates no text")
        options: dict[str, Any] = {"lora_request": None if resident is None else lora_request(resident)}
        if self._client.vllm_config.scheduler_config.policy == "priority":
            options["priority"] = LAST
        inputs, name = tokens_input(list(prompt)), f"direct-{uuid4().hex}"
        try:
            (output,) = [output async for output in self._generate(inputs, sampling, name, **options)]
        except (EngineDeadError, EngineGenerateError) as gone:
            raise EngineGone(str(gone)) from gone
        return output


def _scoring() -> SamplingParams:
    """With prompt log-probabilities, vLLM reads no prefix cache: a cached token has none."""
    return SamplingParams(prompt_logprobs=0, detokenize=False, **_ONE_TOKEN)


def _scores(prompt: Sequence[int], positions: Sequence[Any]) -> list[float]:
    return [at[token].logprob for token, at in zip(prompt, positions, strict=True) if at is not None]  # None: the first
