"""Which modules of the base model vLLM serves no LoRA on, with stand-ins for its manager and its client."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from vllm.model_executor.models.utils import PPMissingLayer, WeightsMapper

from server.engine.vllm.lora_support import experts_on_a_cpu, unserved_modules

PACKED = {"qkv_proj": ["q_proj", "k_proj", "v_proj"], "gate_up_proj": ["gate_proj", "up_proj"]}
ATTENTION = tuple(f"self_attn.{name}_proj" for name in "qkvo")
LINEAR = (*ATTENTION, "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
NAMES = [*(f"model.layers.{layer}.{name}" for layer in range(2) for name in LINEAR), "lm_head"]


def manager(
    *,
    wrapped: tuple[str, ...] = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
    supported: tuple[str, ...] = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
    prefix: str = "model.",
    missing: tuple[int, ...] = (),
    mapper: WeightsMapper | None = None,
    also: tuple[str, ...] = ("lm_head",),
) -> Any:
    """A manager of two layers; LoRA is on the modules ``wrapped``, as their last parts say."""
    own = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
    held = {f"{prefix}layers.{layer}.{name}": object() for layer in range(2) for name in own if layer not in missing}
    held |= {f"{prefix}layers.{layer}": PPMissingLayer() for layer in missing} | {name: object() for name in also}
    on = {name: module for name, module in held.items() if name.rpartition(".")[2] in wrapped}
    return SimpleNamespace(
        packed_modules_mapping=PACKED,
        supported_lora_modules=list(supported),
        modules=on,
        model=SimpleNamespace(named_modules=held.items, hf_to_vllm_mapper=mapper),
    )


def test_packed_modules_are_served_and_the_head_is_not() -> None:
    assert unserved_modules(manager(), NAMES) == ["lm_head"]


def test_a_head_that_the_architecture_supports_is_served() -> None:
    assert unserved_modules(manager(wrapped=(*PACKED, "o_proj", "down_proj", "lm_head")), NAMES) == []


def test_modules_that_a_flag_leaves_out_are_not_served() -> None:
    left_out = [name for name in NAMES if "mlp" in name or name == "lm_head"]
    assert unserved_modules(manager(wrapped=("qkv_proj", "o_proj")), NAMES) == left_out


def test_a_worker_says_nothing_about_layers_that_another_one_holds() -> None:
    assert unserved_modules(manager(missing=(1,), also=()), NAMES[:-1]) == []


def test_a_tower_without_lora_is_not_served() -> None:
    mapper = WeightsMapper(orig_to_new_prefix={"model.language_model.": "language_model.model."})
    stand_in = manager(prefix="language_model.model.", mapper=mapper, also=("visual.blocks.0.attn.o_proj",))
    del stand_in.modules["visual.blocks.0.attn.o_proj"]
    names = ["model.language_model.layers.0.self_attn.q_proj", "visual.blocks.0.attn.o_proj"]
    assert unserved_modules(stand_in, names) == ["visual.blocks.0.attn.o_proj"]


@pytest.mark.parametrize(("wrapped", "unserved"), [(("experts",), False), ((), True)])
def test_experts_are_served_together(wrapped: tuple[str, ...], unserved: bool) -> None:
    name = "model.layers.0.mlp.experts.7.gate_proj"
    stand_in = manager(wrapped=wrapped, also=("model.layers.0.mlp.experts",))
    assert unserved_modules(stand_in, [name]) == ([name] if unserved else [])


@pytest.mark.parametrize(("is_moe", "refused"), [(True, True), (False, False)])
def test_a_mixture_of_experts_on_the_cpu_build_is_refused_with_the_reason(is_moe: bool, refused: bool) -> None:
    client: Any = SimpleNamespace(model_config=SimpleNamespace(is_moe=is_moe, model="org/moe"))
    reason = experts_on_a_cpu(client)
    assert (reason is not None) == refused
    if reason is not None:
        assert "org/moe is a mixture of experts" in reason
        assert "GPU" in reason
