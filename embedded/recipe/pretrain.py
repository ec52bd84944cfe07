"""Pretrain the base from random weights on one CPU thread, in a fixed number of steps.

Forward and backward run in bfloat16, a float32 master copy takes the updates: Muon for the matrices, AdamW for
embeddings and norms. The learning rate warms up, stays flat, and falls linearly to zero over the last 45 % of steps.
The number of steps is fixed, not the time: the same seed on the same machine with the same thread count gives the same
bytes.
"""

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import torch
from torch.nn import functional
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase, Qwen3Config, Qwen3ForCausalLM

from embedded.recipe import batches, unseen
from embedded.recipe.batches import ANSWER, PROMPT, Encoded, padded
from embedded.recipe.tokenizer import MAX_TOKENS

_PROMPT_SHARE: Final = 0.2  # the share of the prompts' tokens for which logits and loss are computed


@dataclass(frozen=True, slots=True)
class PretrainHyperparameters:
    """What the weights depend on besides the recipe itself."""

    seed: int = 0
    steps: int = 2700
    batch_tokens: int = 2048
    muon_learning_rate: float = 6e-3
    adam_learning_rate: float = 4e-3
    warmup_steps: int = 50
    decay_share: float = 0.45


def architecture(tokenizer: PreTrainedTokenizerBase) -> Qwen3Config:
    """Return the config of the base: 3.4 million parameters.

    vLLM's CPU attention supports head sizes of 32, 64, 80, 96, 112, 128 and some larger ones only.
    """
    return Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        tie_word_embeddings=True,
        max_position_embeddings=MAX_TOKENS,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation="eager",  # faster than SDPA for short rows in bfloat16
    )


def _loss(model: Qwen3ForCausalLM, batch: list[Encoded], pad: int) -> tuple[torch.Tensor, float | None]:
    """Return the weighted loss to minimise, and the mean loss of the answers' tokens (None without any) to print."""
    tokens, weights = padded([row.tokens for row in batch], pad), padded([row.weights for row in batch], 0)
    hidden = model.model(input_ids=tokens).last_hidden_state[:, :-1]
    targets, weights = tokens[:, 1:], weights[:, 1:]
    chosen = (weights > PROMPT) | ((weights > 0) & (torch.rand(weights.shape) < _PROMPT_SHARE))
    losses = functional.cross_entropy(model.lm_head(hidden[chosen]).float(), targets[chosen], reduction="none")
    weights = weights[chosen]
    answers = losses[weights == ANSWER]
    return (losses * weights).sum() / weights.sum(), answers.mean().item() if len(answers) else None


class MasterCopy:
    """The float32 parameters that the optimizers update, and the bfloat16 model that holds them rounded."""

    def __init__(self, model: Qwen3ForCausalLM, settings: PretrainHyperparameters) -> None:
        named = list(model.named_parameters())
        self._masters = [parameter.detach().clone().requires_grad_() for _, parameter in named]
        model.bfloat16()
        self._parameters = list(model.parameters())
        matrices: list[torch.Tensor] = []
        others: list[torch.Tensor] = []
        for (name, _), master in zip(named, self._masters, strict=True):
            (matrices if master.ndim == 2 and "embed" not in name else others).append(master)
        muon = torch.optim.Muon(matrices, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")
        adam = torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0)
        self._optimizers = [(muon, settings.muon_learning_rate), (adam, settings.adam_learning_rate)]

    def step(self, share: float) -> None:
        """Update the masters at `share` of the full learning rate, and copy them into the model, rounded."""
        for parameter, master in zip(self._parameters, self._masters, strict=True):
            master.grad = parameter.grad.float()
            parameter.grad = None
        torch.nn.utils.clip_grad_norm_(self._masters, 1.0)
        for optimizer, learning_rate in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * share
            optimizer.step()
        with torch.no_grad():
            for parameter, master in zip(self._parameters, self._masters, strict=True):
                parameter.copy_(master)


def _share(step: int, settings: PretrainHyperparameters) -> float:
    """Return the share of the full learning rate that step `step` takes."""
    warm = (step + 1) / settings.warmup_steps
    left = (settings.steps - step) / settings.steps
    return min(1.0, warm, left / settings.decay_share)


def pretrain(base: Path, settings: PretrainHyperparameters) -> None:
    """Train the model whose tokenizer lies in `base`; write weights, config and `recipe.json` there."""
    torch.manual_seed(settings.seed)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = Qwen3ForCausalLM(architecture(tokenizer))
    masters = MasterCopy(model, settings)
    source = batches.draw(tokenizer, settings.seed, settings.batch_tokens)
    started, seen, recent = time.monotonic(), 0, None
    for step in range(settings.steps):
        batch = next(source)
        loss, answer_loss = _loss(model, batch, tokenizer.pad_token_id)
        loss.backward()
        masters.step(_share(step, settings))
        seen += sum(len(row.tokens) for row in batch)
        if answer_loss is not None:
            recent = answer_loss if recent is None else 0.97 * recent + 0.03 * answer_loss
        if (step + 1) % 50 == 0:
            spent_s = time.monotonic() - started
            left_min = spent_s / (step + 1) * (settings.steps - step - 1) / 60
            progress = f"loss {recent:.4f}  {seen / spent_s:.0f} tokens/s  {left_min:.1f} min left"
            print(f"  step {step + 1}/{settings.steps}  {progress}", flush=True)
    with torch.no_grad():
        unseen.separate(model.model.embed_tokens.weight, unseen.unseen_tokens(tokenizer, settings.seed), settings.seed)
    _save(model, tokenizer, base)
    _write_record(base, settings, tokens=seen, loss=recent, seconds=time.monotonic() - started)


def _save(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase, base: Path) -> None:
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model.generation_config = GenerationConfig(**ends, do_sample=False)
    model.save_pretrained(base)


def _write_record(
    base: Path, settings: PretrainHyperparameters, tokens: int, loss: float | None, seconds: float
) -> None:
    weights = (base / "model.safetensors").read_bytes()
    record = {
        **asdict(settings),
        "tokens": tokens,
        "loss": None if loss is None else round(loss, 4),
        "seconds": round(seconds),
        "torch": torch.__version__,
        "sha256": hashlib.sha256(weights).hexdigest(),
    }
    (base / "recipe.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
