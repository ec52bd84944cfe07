"""The canonical form: plain LoRA of one rank and scale 1, in the base's dtype, in the order in which it is loaded."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from adapters.base_model import EMBEDDING
from adapters.canonical_config import canonical_config, targets_of
from adapters.compile.factors import Factors
from adapters.compile.keys import PREFIX
from adapters.manifest import CONFIG_FILE, WEIGHTS_FILE


def write(
    directory: Path, made: Sequence[Factors], rank: int, modules: Iterable[str], declared_base: str | None
) -> None:
    """Write the two files. Equal factors become equal bytes.

    ``made`` has its final dtype and ``rank``; ``modules`` is all that may carry a LoRA in the base. safetensors' writer
    orders tensors by name, and that is the order in which vLLM reads them.
    """
    directory.mkdir(parents=True, exist_ok=True)
    targets = targets_of((factors.module for factors in made), modules)
    config = canonical_config(rank, targets, declared_base)
    (directory / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")
    save_file(dict(_tensors(made)), directory / WEIGHTS_FILE, metadata={"format": "pt"})


def _tensors(made: Sequence[Factors]) -> Iterable[tuple[str, torch.Tensor]]:
    for factors in made:
        form = "lora_embedding_{}" if factors.module.rpartition(".")[2] == EMBEDDING else "lora_{}.weight"
        for side, tensor in (("A", factors.a), ("B", factors.b)):
            yield f"{PREFIX}{factors.module}.{form.format(side)}", tensor
