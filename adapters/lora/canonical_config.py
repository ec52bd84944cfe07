"""The config of an adapter in canonical form: plain LoRA of one rank and scale 1."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any


def canonical_config(rank: int, targets: Sequence[str], declared_base: str | None) -> dict[str, Any]:
    """Return the fields of adapter_config.json; ``targets`` as ``targets_of`` gives them."""
    return {
        "base_model_name_or_path": declared_base,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": list(targets),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }


def targets_of(adapted: Iterable[str], modules: Iterable[str]) -> list[str]:
    """Return target_modules for ``adapted`` of a base with ``modules``, sorted.

    Last parts of names where every such module is adapted, else whole names.
    """
    alike: defaultdict[str, set[str]] = defaultdict(set)
    for module in modules:
        alike[module.rpartition(".")[2]].add(module)
    present = set(adapted)
    targets: set[str] = set()
    for last, named in alike.items():
        targets |= {last} if named <= present else named & present
    return sorted(targets)
