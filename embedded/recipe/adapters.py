"""Train a LoRA adapter on one skill, with PEFT and a plain loop."""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Final

import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from adapters.base_model import BaseModel
from adapters.checks.canonicalizer import canonicalize
from adapters.checks.inspection import AdapterLimits
from embedded.recipe.batches import padded
from embedded.recipe.skills import Row
from embedded.recipe.tokenizer import encode_chat

BASE_NAME: Final = "patchbay/embedded-base"
LINEAR_MODULES: Final = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
_IGNORED: Final = -100
_LIMITS: Final = AdapterLimits(max_rank=64, max_bytes=1 << 30)


@dataclass(frozen=True, slots=True)
class AdapterHyperparameters:
    """Hyperparameters for a base this small; at the usual learning rate (1e-4) it learns nothing in 250 steps."""

    rank: int = 8
    epochs: int = 10
    batch_size: int = 16
    learning_rate: float = 3e-3
    warmup_steps: int = 10
    seed: int = 0


def _batch(rows: list[Row], tokenizer: PreTrainedTokenizerBase) -> dict[str, torch.Tensor]:
    """Return the model's inputs for `rows`; labels are the assistant's tokens only."""
    encoded = [encode_chat(tokenizer, row["messages"]) for row in rows]
    tokens = padded([tokens for tokens, _ in encoded], tokenizer.pad_token_id)
    mask = padded([[1] * len(tokens) for tokens, _ in encoded], 0)
    is_answer = padded([is_answer for _, is_answer in encoded], fill=False)
    return {"input_ids": tokens, "attention_mask": mask, "labels": tokens.where(is_answer, _IGNORED)}


def _batches(rows: list[Row], settings: AdapterHyperparameters) -> list[list[Row]]:
    random, size = Random(settings.seed), settings.batch_size
    epochs = [random.sample(rows, len(rows)) for _ in range(settings.epochs)]
    return [epoch[start : start + size] for epoch in epochs for start in range(0, len(rows), size)]


def _schedule(step: int, steps: int, warmup_steps: int) -> float:
    """Return the share of the full learning rate: a linear warm-up, then half a cosine down to zero."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(1, steps - warmup_steps)))


def train(base: Path, rows: list[Row], out: Path, settings: AdapterHyperparameters | None = None) -> float:
    """Train an adapter on `rows`, save it as a PEFT directory in `out`, and return the last loss."""
    settings = settings or AdapterHyperparameters()
    torch.manual_seed(settings.seed)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        LoraConfig(r=settings.rank, lora_alpha=2 * settings.rank, target_modules=LINEAR_MODULES, task_type="CAUSAL_LM"),
    )
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=settings.learning_rate, weight_decay=0.0)
    batches = _batches(rows, settings)
    started, loss = time.monotonic(), torch.tensor(math.nan)
    for step, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * _schedule(step, len(batches), settings.warmup_steps)
        encoded = _batch(batch, tokenizer)
        labels = encoded.pop("labels")
        logits = model(**encoded).logits[:, :-1]
        loss = functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=_IGNORED)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % 25 == 0:
            left_s = (time.monotonic() - started) / (step + 1) * (len(batches) - step - 1)
            print(f"  step {step + 1}/{len(batches)}  loss {loss.item():.4f}  {left_s:.0f} s left", flush=True)
    _save(model, base, out)
    return float(loss.detach())


def _save(model: torch.nn.Module, base: Path, out: Path) -> None:
    """Write a PEFT directory in canonical form, without any path of this machine."""
    model.peft_config["default"].base_model_name_or_path = BASE_NAME
    with TemporaryDirectory() as name:
        model.save_pretrained(name, save_embedding_layers=False)  # "auto" would ask the hub about the base
        Path(name, "README.md").unlink(missing_ok=True)
        canonicalize(Path(name), out, BaseModel.from_directory(base, BASE_NAME), _LIMITS)
