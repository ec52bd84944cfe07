"""What tests do to models and saved adapters."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from safetensors.torch import load_file, save_file
from torch.overrides import TorchFunctionMode

from adapters.errors import Fault
from adapters.lora.canonical_form import CompileReport
from adapters.storage.manifest import CONFIG_FILE, WEIGHTS_FILE

Compile = Callable[..., tuple[CompileReport, Path]]
Refuse = Callable[..., tuple[Fault, ...]]
TOKENS = torch.arange(10, 74).reshape(2, 32)
TARGETS = ["q_proj", "v_proj", "down_proj"]

SPELLINGS: dict[str, Callable[[str], str]] = {
    "a prefix left out": lambda name: name.removeprefix("base_model.model."),
    "a prefix twice": lambda name: f"base_model.model.{name}",
    "the bare model": lambda name: name.replace("base_model.model.model.", "base_model.model."),
    "the model's own prefix alone": lambda name: name.removeprefix("base_model.model.model."),
    "the adapter's name": lambda name: name.replace(".weight", ".default.weight"),
    "another adapter's name": lambda name: name.replace(".weight", ".my-adapter.weight"),
    "torch.compile": lambda name: f"_orig_mod.{name}",
    "FSDP": lambda name: name.replace(".self_attn", "._fsdp_wrapped_module.self_attn"),
    "activation checkpoints": lambda name: name.replace(".self_attn", "._checkpoint_wrapped_module.self_attn"),
    "DDP": lambda name: f"module.{name}",
    "a multimodal wrapper": lambda name: name.replace("model.model.layers", "model.model.language_model.layers"),
    "an older multimodal wrapper": lambda name: name.replace("model.model.", "model.language_model.model."),
}
"""What tools make of the names that PEFT gives tensors."""


def config_of(kind: str, fields: dict[str, Any]) -> Any:
    return PEFT_TYPE_TO_CONFIG_MAPPING[kind](**{"target_modules": TARGETS, "task_type": "CAUSAL_LM"} | fields)


@torch.no_grad()
def log_probabilities(model: torch.nn.Module) -> torch.Tensor:
    return model(TOKENS).logits.log_softmax(-1)


def train(model: torch.nn.Module, by: float = 0.02) -> None:
    """Move every trainable number by chance: no kind's start, mostly no change at all, would test anything."""
    random = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += by * torch.randn(parameter.shape, generator=random)


def edit_config(adapter: Path, **fields: Any) -> None:
    path = adapter / CONFIG_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def edit_tensors(adapter: Path, change: Callable[[dict[str, torch.Tensor]], Mapping[str, torch.Tensor]]) -> None:
    path = adapter / WEIGHTS_FILE
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    save_file(dict(change(tensors)), path)


def with_loftq(config: LoraConfig, bits: int, iterations: int) -> LoraConfig:
    """``config``, to start by LoftQ. Said afterwards: PEFT's constructor wants scipy for it and never uses it."""
    config.init_lora_weights, config.loftq_config = "loftq", {"loftq_bits": bits, "loftq_iter": iterations}
    return config


class on_the_cpu(TorchFunctionMode):  # noqa: N801 - reads as what it does
    """Computes on the CPU what asks for "cuda", as PEFT's ``loftq_init`` does whatever there is."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def here(value: Any) -> Any:
            return "cpu" if isinstance(value, str | torch.device) and str(value).startswith("cuda") else value

        if func is not torch.Tensor.to:
            return func(*args, **kwargs or {})
        return func(*map(here, args), **{name: here(value) for name, value in (kwargs or {}).items()})
