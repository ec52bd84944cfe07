"""Log-probabilities of given tokens from vLLM, one prompt at a time, so that others in the batch hardly wait."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from uuid import uuid4

from vllm import SamplingParams
from vllm.inputs import tokens_input
from vllm.lora.request import LoRARequest
from vllm.v1.engine.async_llm import AsyncLLM

from server.engine.vllm.patches import Generate

LAST: Final = 2**20
"""A priority behind every other request's, where vLLM runs with ``--scheduling-policy priority``."""


class Scorer:
    """Scores prompts with ``generate``, the unmetered method of ``client``."""

    def __init__(self, client: AsyncLLM, generate: Generate) -> None:
        self._generate = generate
        self._options: dict[str, Any] = {}
        if client.vllm_config.scheduler_config.policy == "priority":
            self._options["priority"] = LAST
        # With prompt log-probabilities, vLLM reads no prefix cache: a cached token has none.
        self._sampling = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)

    async def score(self, prompts: Sequence[Sequence[int]], adapter: LoRARequest | None) -> list[list[float]]:
        return [await self._score(list(prompt), adapter) for prompt in prompts]

    async def _score(self, prompt: list[int], adapter: LoRARequest | None) -> list[float]:
        outputs = self._generate(
            tokens_input(prompt), self._sampling.clone(), f"score-{uuid4().hex}", lora_request=adapter, **self._options
        )
        (output,) = [output async for output in outputs]  # one token, one output
        scores = zip(prompt, output.prompt_logprobs, strict=True)
        return [position[token].logprob for token, position in scores if position is not None]  # None: the first
