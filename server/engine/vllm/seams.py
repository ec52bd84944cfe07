"""The places where vLLM's server is ours: three attributes of its model list, two methods of its engine client.

Every serving class of vLLM shares one ``OpenAIServingModels``; its ``_check_model`` asks ``lora_requests`` and then
``resolve_lora``, and ``_maybe_get_adapters`` reads ``lora_requests`` a second time. Between the two reads an alias may
move, so both go through the gate, which decides once per request. Instance attributes only: vLLM is not patched.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing
from http import HTTPStatus
from pathlib import Path
from typing import Any

from vllm.entrypoints.openai.models.serving import OpenAIServingModels
from vllm.entrypoints.serve import create_error_response
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.lora.request import LoRARequest
from vllm.v1.engine.async_llm import AsyncLLM

from adapters.errors import PatchbayError
from server.engine.protocol import ComputedNaN, Demand, EngineHooks, Generation, Resident


def request_for(resident: Resident) -> LoRARequest:
    """Return ``resident`` as vLLM names it."""
    return LoRARequest(lora_name=resident.name, lora_int_id=resident.id, lora_path=str(resident.path))


class ChosenAdapters(Mapping[str, LoRARequest]):
    """``lora_requests`` as this very request sees it: what the gate chose for it, and nothing else.

    A name is absent until the gate chose, so vLLM always asks ``resolve_lora`` first.
    """

    def __init__(self, hooks: EngineHooks) -> None:
        self._hooks = hooks

    def __getitem__(self, model: str) -> LoRARequest:
        resident = self._hooks.resolved(model)
        if resident is None:
            raise KeyError(model)
        return request_for(resident)

    def __contains__(self, model: object) -> bool:
        return isinstance(model, str) and self._hooks.resolved(model) is not None

    def __iter__(self) -> Iterator[str]:  # vLLM iterates to find default multimodal adapters; we have none
        return iter(())

    def __len__(self) -> int:
        return 0


def take_model_list(models: OpenAIServingModels, hooks: EngineHooks) -> None:
    """Make the gate decide what ``model`` means in every request that vLLM's app reads."""

    async def resolve_lora(model: str) -> LoRARequest | ErrorResponse:
        try:
            return request_for(await hooks.resolve(model))
        except PatchbayError as refusal:
            # Only a 400 passes vLLM unchanged; the gateway sends the refusal's own status in its place.
            return create_error_response(refusal.message, "BadRequestError", HTTPStatus.BAD_REQUEST, param="model")

    models.lora_requests = ChosenAdapters(hooks)
    models.resolve_lora = resolve_lora
    models.show_available_models = models.registry.show_available_models


def take_engine_client(engine: AsyncLLM, hooks: EngineHooks) -> None:
    """Hold and meter the adapter of every generation; each of vLLM's endpoints passes through these two methods."""
    running: Mapping[str, Any] = engine.output_processor.external_req_ids
    engine.generate = _metered(engine.generate, hooks, running)
    engine.encode = _metered(engine.encode, hooks, running)


def _metered(
    inner: Callable[..., Any], hooks: EngineHooks, running: Mapping[str, Any]
) -> Callable[..., AsyncIterator[Any]]:
    async def generate(*args: Any, lora_request: LoRARequest | None = None, **kwargs: Any) -> AsyncIterator[Any]:
        resident = None if lora_request is None else _resident_of(lora_request)
        demand, name = _asked(*args, **kwargs)
        is_one_of_many = demand.sequences > 1  # the statistics are of one child only
        async with hooks.generation(resident, demand) as generation:
            last, counted = None, 0
            try:
                async with aclosing(inner(*args, lora_request=lora_request, **kwargs)) as outputs:
                    async for output in outputs:
                        if last is None:
                            generation.on_first_output()
                            if name in running:
                                generation.is_finished = lambda: name not in running
                        last = output
                        if resident is not None and _is_nan(last):
                            raise ComputedNaN(resident.name)
                        if is_one_of_many:
                            counted += sum(len(choice.token_ids) for choice in last.outputs)
                        yield last
            finally:
                if last is not None:
                    _read_statistics(generation, last)
                if is_one_of_many:
                    generation.generated_tokens = counted

    return generate


def _asked(
    prompt: Any, params: Any = None, request_id: str = "", *_: Any, pooling_params: Any = None, **__: Any
) -> tuple[Demand, str]:
    """Return what ``generate`` or ``encode`` was asked and the request's name, as vLLM's endpoints call them."""
    params = pooling_params if params is None else params
    tokens = prompt.get("prompt_token_ids") if isinstance(prompt, dict) else getattr(prompt, "prompt_token_ids", None)
    return Demand(len(tokens or ()), getattr(params, "max_tokens", 0) or 0, getattr(params, "n", 1)), request_id


def _resident_of(request: LoRARequest) -> Resident:
    return Resident(request.lora_int_id, request.lora_name, Path(request.lora_path))


def _is_nan(output: Any) -> bool:
    """Whether any logits of the generation held NaN so far; vLLM counts them, see ``server.engine.vllm.builder``."""
    stats = getattr(output, "metrics", None)
    return stats is not None and stats.is_corrupted


def _read_statistics(generation: Generation, output: Any) -> None:
    """Fill ``generation`` from the last output; vLLM keeps these numbers anyway, so nothing is counted per token."""
    generation.prompt_tokens = len(output.prompt_token_ids or ())
    stats = getattr(output, "metrics", None)
    if stats is None:
        return
    generation.generated_tokens = stats.num_generation_tokens
    if stats.first_token_ts:
        generation.first_token_s = stats.first_token_latency
        generation.queue_s = max(0.0, stats.scheduled_ts - stats.queued_ts)
        if stats.num_generation_tokens > 1:
            generation.inter_token_s = (stats.last_token_ts - stats.first_token_ts) / (stats.num_generation_tokens - 1)
