"""What tests do to models and saved adapters."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from adapters.compile.report import CompileReport
from adapters.errors import Fault
from adapters.manifest import CONFIG_FILE, WEIGHTS_FILE

Compile = Callable[..., tuple[CompileReport, Path]]
Refuse = Callable[..., tuple[Fault, ...]]
TOKENS = torch.arange(10, 74).reshape(2, 32)


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
