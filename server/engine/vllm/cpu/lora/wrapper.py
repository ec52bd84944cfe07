"""vLLM's LoRA wrapper of the CPU platform, with dense products over windows of slots in place of gathers per token."""

from typing import Any

from torch import Tensor
from vllm.lora.layers import BaseLayerWithLoRA, LogitsProcessorWithLoRA, VocabParallelEmbeddingWithLoRA
from vllm.lora.layers.base_linear import BaseLinearLayerWithLoRA
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

from server.engine.vllm.cpu.lora.blocks import Block, split_rows
from server.engine.vllm.cpu.lora.slots import SlotWeights, tracked_writes


class DenseWrapper(PunicaWrapperCPU):  # type: ignore[misc]
    """Holds the blocks of the current step, and the weights of every layer that it adopted."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        config = kwargs["lora_config"]
        self._rank: int = config.max_lora_rank
        self._is_sharded: bool = config.fully_sharded_loras
        self._weights: dict[int, SlotWeights] = {}  # by the address of the first weights to expand
        self._tokens: list[Block] = []
        self._sampled: list[Block] = []

    def adopt(self, layer: BaseLayerWithLoRA) -> dict[str, Any]:
        """Take over the weights of ``layer``, which are still empty; return the attributes that it gets for them.

        They are none for a kind of layer that stays with vLLM's own wrapper.
        """
        if isinstance(layer, BaseLinearLayerWithLoRA) and not self._is_sharded:
            weights = SlotWeights(layer.lora_a_stacked, layer.lora_b_stacked)
            stacked = {"lora_a_stacked": weights.shrinking_views(), "lora_b_stacked": weights.expanding_views()}
        elif isinstance(layer, LogitsProcessorWithLoRA):
            weights = SlotWeights([layer.lora_a_stacked], [layer.lora_b_stacked])
            stacked = {"lora_a_stacked": weights.shrinking_views()[0], "lora_b_stacked": weights.expanding_views()[0]}
        elif isinstance(layer, VocabParallelEmbeddingWithLoRA):
            weights = SlotWeights([], [layer.lora_b_stacked])
            stacked = {"lora_b_stacked": weights.expanding_views()[0]}
        else:
            return {}
        self._weights[weights.expanding_views()[0].data_ptr()] = weights
        set_lora, reset_lora = tracked_writes(layer, weights)
        return {**stacked, "set_lora": set_lora, "reset_lora": reset_lora}

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        """Split the rows of a step into blocks, at its start: once for all layers."""
        super().update_metadata(*args, **kwargs)
        self._tokens = split_rows(self.token_lora_indices.tolist(), self._rank)
        self._sampled = split_rows(self.sampler_indices.tolist(), self._rank)

    def add_lora_linear(
        self, y: Tensor, x: Tensor, lora_a_stacked: Any, lora_b_stacked: Any, scale: float, *args: Any, **kwargs: Any
    ) -> None:
        """``y += scale · x @ Aᵀ @ Bᵀ`` by slot, for all slices of a layer; y [T, sum of O], x [T, H]."""
        weights = self._weights.get(lora_b_stacked[0].data_ptr())
        if weights is None:
            super().add_lora_linear(y, x, lora_a_stacked, lora_b_stacked, scale, *args, **kwargs)
        else:
            weights.add(y, x, self._tokens, scale)

    def add_lora_embedding(self, y: Tensor, x: Tensor, lora_b_stacked: Tensor, *_: Any, **__: Any) -> None:
        """``y += x @ Bᵀ`` by slot; y [T, O], x [T, r], already shrunk."""
        self._weights[lora_b_stacked.data_ptr()].add_shrunk(y, x, self._tokens)

    def add_lora_logits(
        self, y: Tensor, x: Tensor, lora_a_stacked: Tensor, lora_b_stacked: Tensor, scale: float, **_: Any
    ) -> None:
        """``y += scale · x @ Aᵀ @ Bᵀ`` by slot; y [rows, ≥ O], x [rows, H]."""
        self._weights[lora_b_stacked.data_ptr()].add(y, x, self._logits_blocks(x), scale)

    def _logits_blocks(self, inputs: Tensor) -> list[Block]:
        """Return the blocks of ``inputs``, the rows whose logits are computed.

        Sampled rows are a tensor of their own. Rows of a prompt are a slice of the step's tokens, all of one request.
        vLLM's wrapper takes them for sampled ones, so that a request for log-probabilities of its prompt ends the
        engine as soon as another one is in the batch. Their slot is found through the slots of the step's tokens.
        """
        if inputs.untyped_storage().nbytes() == inputs.nbytes and len(inputs) == len(self.sampler_indices):
            return self._sampled
        first = inputs.storage_offset() // inputs.stride(0)
        slot = int(self.token_lora_indices[first])
        return split_rows([slot] * len(inputs), self._rank)
