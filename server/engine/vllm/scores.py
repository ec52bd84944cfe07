"""Log-probabilities of given tokens from vLLM, one prompt a step: others in the batch must hardly feel it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final
from uuid import uuid4

from vllm import RequestOutput, SamplingParams
from vllm.inputs import tokens_input
from vllm.lora.request import LoRARequest
from vllm.v1.engine.async_llm import AsyncLLM

Generate = Callable[..., AsyncIterator[RequestOutput]]

LAST: Final = 2**20
"""A priority behind every other request's, where vLLM runs with ``--scheduling-policy priority``."""


class Scores:
    """Scores prompts with ``generate``, the method of ``client`` that nothing is metered in."""

    def __init__(self, client: AsyncLLM, generate: Generate) -> None:
        self._generate = generate
        self._rest: dict[str, Any] = {}
        if client.vllm_config.scheduler_config.policy == "priority":
            self._rest["priority"] = LAST
        # Asked for its prompt's log-probabilities, vLLM reads no prefix cache: a cached token has none.
        self._sampling = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)

    async def of(self, prompts: Sequence[Sequence[int]], adapter: LoRARequest | None) -> list[list[float]]:
        """Return what ``Engine.score`` does."""
        return [await self._of(list(prompt), adapter) for prompt in prompts]

    async def _of(self, prompt: list[int], adapter: LoRARequest | None) -> list[float]:
        request = f"score-{uuid4().hex}"
        generating = self._generate(
            tokens_input(prompt), self._sampling.clone(), request, lora_request=adapter, **self._rest
        )
        (output,) = [output async for output in generating]  # one token, one output
        scored = zip(prompt, output.prompt_logprobs, strict=True)
        return [position[token].logprob for token, position in scored if position is not None]  # None: the first
