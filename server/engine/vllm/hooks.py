"""How vLLM's server calls ``EngineHooks``: to resolve ``model``, and around each generation."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from hashlib import sha256
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi import Request, Response
from vllm.entrypoints.serve import create_error_response
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.lora.request import LoRARequest

from adapters.errors import PatchbayError
from server.engine.protocol import ComputedNaN, Demand, EngineHooks, Generation, Resident
from server.engine.vllm.patches import Generate, RouteHandler


def lora_request(resident: Resident) -> LoRARequest:
    return LoRARequest(lora_name=resident.name, lora_int_id=resident.id, lora_path=str(resident.path))


def with_prepared_body(handler: RouteHandler, hooks: EngineHooks) -> RouteHandler:
    """Return ``handler`` of a route, for requests whose JSON body the hooks have made fit once it is parsed."""

    async def handle(request: Request) -> Response:
        return await handler(PreparedRequest(request, hooks))

    return handle


class PreparedRequest(Request):
    """A request whose parsed body passes ``EngineHooks.prepare_body``. So no body is parsed twice."""

    def __init__(self, request: Request, hooks: EngineHooks) -> None:
        super().__init__(request.scope, request.receive)
        self._hooks = hooks

    async def json(self) -> Any:
        is_parsed = hasattr(self, "_json")
        body = await super().json()
        if isinstance(body, dict) and not is_parsed:
            self._hooks.prepare_body(self.scope["path"], body)
        return body


class ResolvedAdapters(dict[str, LoRARequest]):
    """vLLM's ``lora_requests``: an empty dictionary, in which a look-up finds what the current request has resolved.

    A name is absent until it is resolved, so vLLM always calls ``resolve_lora`` first. vLLM iterates to find default
    multimodal adapters; there are none.
    """

    def __init__(self, hooks: EngineHooks) -> None:
        self._hooks = hooks

    def __contains__(self, model: object) -> bool:
        return isinstance(model, str) and self._hooks.resolved(model) is not None

    def __missing__(self, model: str) -> LoRARequest:
        resident = self._hooks.resolved(model)
        if resident is None:
            raise KeyError(model)
        return lora_request(resident)

    async def resolve(self, model: str) -> LoRARequest | ErrorResponse:
        """Answer vLLM's ``resolve_lora``."""
        try:
            return lora_request(await self._hooks.resolve(model))
        except PatchbayError as refusal:
            # Only a 400 passes vLLM unchanged; the gateway sends the refusal's own status in its place.
            return create_error_response(refusal.message, "BadRequestError", HTTPStatus.BAD_REQUEST, param="model")


def metered(generate: Generate, hooks: EngineHooks, running: Mapping[str, Any]) -> Generate:
    """Return ``generate`` (or ``encode``) of the engine's client within ``hooks.generation``.

    ``running``: the client's unfinished requests, by the names that its callers gave them.
    """

    async def wrapper(
        prompt: Any, *args: Any, lora_request: LoRARequest | None = None, **kwargs: Any
    ) -> AsyncGenerator[Any, None]:
        resident = None
        if lora_request is not None:
            resident = Resident(lora_request.lora_int_id, lora_request.lora_name, Path(lora_request.lora_path))
        demand, name = _demand(prompt, *args, **kwargs)
        is_one_of_many = demand.sequences > 1  # the statistics are of one child only
        async with hooks.generation(resident, demand) as generation:
            last, counted = None, 0
            _separate_cache(prompt, generation)
            try:
                async with aclosing(generate(prompt, *args, lora_request=lora_request, **kwargs)) as outputs:
                    async for output in outputs:
                        if last is None:
                            generation.on_first_output()
                            if name in running:
                                generation.is_finished = lambda: name not in running
                        last = output
                        # NaN logits so far: vLLM counts them (``VLLM_COMPUTE_NANS_IN_LOGITS``)
                        if resident is not None and (stats := getattr(last, "metrics", None)) and stats.is_corrupted:
                            raise ComputedNaN(resident.name)
                        if is_one_of_many:
                            counted += sum(len(choice.token_ids) for choice in last.outputs)
                        yield last
            finally:
                if last is not None:
                    _read_statistics(generation, last)
                if is_one_of_many:
                    generation.generated_tokens = counted

    return wrapper


def _separate_cache(prompt: Any, generation: Generation) -> None:
    """Salt the hashes of the prompt's blocks with the cache scope. vLLM's own salts, from requests, have no slash."""
    if generation.cache_scope is not None:
        prompt["cache_salt"] = f"{generation.cache_scope}/{prompt.get('cache_salt') or ''}"


def _demand(
    prompt: Any, params: Any = None, request_id: str = "", *_: Any, pooling_params: Any = None, **__: Any
) -> tuple[Demand, str]:
    """Return the demand and the name of a request, from the arguments of ``generate`` or ``encode``."""
    params = pooling_params if params is None else params
    tokens = prompt.get("prompt_token_ids") if isinstance(prompt, dict) else getattr(prompt, "prompt_token_ids", None)
    output = getattr(params, "structured_outputs", None)
    demand = Demand(
        len(tokens or ()),
        getattr(params, "max_tokens", 0) or 0,
        getattr(params, "n", 1),
        None if output is None else sha256(repr(output).encode("utf-8", "replace")).hexdigest(),
    )
    return demand, request_id


def _read_statistics(generation: Generation, output: Any) -> None:
    """Fill ``generation`` from the last output. vLLM keeps these numbers anyway: nothing is counted per token."""
    generation.prompt_tokens = len(output.prompt_token_ids or ())
    generation.cached_tokens = getattr(output, "num_cached_tokens", None) or 0
    stats = getattr(output, "metrics", None)
    if stats is None:
        return
    generation.generated_tokens = stats.num_generation_tokens
    if stats.first_token_ts:
        generation.first_token_s = stats.first_token_latency
        generation.queue_s = max(0.0, stats.scheduled_ts - stats.queued_ts)
        if stats.num_generation_tokens > 1:
            generation.inter_token_s = (stats.last_token_ts - stats.first_token_ts) / (stats.num_generation_tokens - 1)
