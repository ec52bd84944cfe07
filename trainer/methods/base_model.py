"""The base model as training wants it, with a fresh adapter on it or one to go on from."""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig, PeftModel
from transformers import AutoConfig, AutoModelForCausalLM

from trainer.run_spec import ALL_LINEAR, RunSpec


def load(spec: RunSpec) -> tuple[Any, LoraConfig | None]:
    """Return the model, and the config of the adapter that TRL is to put on it: None where a warm start brings its own.

    On a CPU in float32 (nothing there is faster in bfloat16, and sums are exact enough to repeat); on a GPU in the
    dtype that the base is stored in.
    """
    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    dtype = "auto" if torch.cuda.is_available() else torch.float32
    model = AutoModelForCausalLM.from_pretrained(spec.base, dtype=dtype, local_files_only=True)
    if spec.warm_start is not None:
        known = LoraConfig.from_pretrained(spec.warm_start)
        known.base_model_name_or_path = str(spec.base)  # whatever the adapter calls it: PEFT would ask the hub
        return PeftModel.from_pretrained(model, spec.warm_start, config=known, is_trainable=True), None
    config = LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha if spec.alpha is not None else 2 * spec.rank,
        target_modules=ALL_LINEAR if spec.targets == ALL_LINEAR else list(spec.targets),
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
    )
    return model, config


def export_dtype(spec: RunSpec) -> torch.dtype:
    """The dtype that adapters are written in: bfloat16 where the base is stored so, else float32."""
    stored = AutoConfig.from_pretrained(spec.base, local_files_only=True).dtype
    return torch.bfloat16 if stored == torch.bfloat16 else torch.float32


def width(spec: RunSpec) -> int:
    """The base's hidden size, which its learning rate depends on."""
    size: int = AutoConfig.from_pretrained(spec.base, local_files_only=True).get_text_config().hidden_size
    return size
