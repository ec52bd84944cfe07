"""LoRA on vLLM's CPU build: right for rows of the base model, and without a gather of weights per token.

Loaded through the ``vllm.general_plugins`` entry point, in every process of vLLM, and active on the CPU platform only.
``blocks`` cuts a step's rows into blocks, once a step; ``slots`` holds a layer's weights of all slots so that a block
takes two matrix products; ``wrapper`` puts both in the place of vLLM's own wrapper. What they do not cover (sharded
adapters, adapters of another dtype than the base) goes through vLLM's wrapper and the mended ops of ``gathered``.
"""

from __future__ import annotations

from typing import Any

from server.engine.vllm import clean_blocks
from server.engine.vllm.cpu.lora import gathered


def install() -> None:
    """Put our LoRA where vLLM's CPU platform finds it. Called by vLLM in each of its processes."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    from vllm.lora.layers import BaseLayerWithLoRA
    from vllm.lora.punica_wrapper import punica_cpu

    for op in gathered.OPS:
        setattr(punica_cpu, op.__name__, op)
    type(current_platform).get_punica_wrapper = classmethod(
        lambda _: "server.engine.vllm.cpu.lora.wrapper.DenseWrapper"
    )
    BaseLayerWithLoRA.set_mapping = _set_mapping
    clean_blocks.install()


def _set_mapping(layer: Any, wrapper: Any) -> None:
    """As vLLM's, which calls it once for each layer, before any adapter is written."""
    layer.punica_wrapper = wrapper
    wrapper.adopt(layer)
