"""PEFT's scores of one adapter after the other, in this process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from adapters.compile.reference import COPY, ReferenceModel
from adapters.storage.manifest import WEIGHTS_FILE

PROMPTS = [[1, 2, 3, 4], [5, 6]]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a tiny base model with an output head of its own."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    )
    directory = tmp_path_factory.mktemp("base")
    LlamaForCausalLM(config).save_pretrained(directory)
    return directory


def adapter(base: Path, out: Path, target: str) -> Path:
    """Write an adapter on ``target`` whose factors are random, with PEFT's copies of embeddings."""
    model = get_peft_model(
        LlamaForCausalLM.from_pretrained(base), LoraConfig(target_modules=[target], init_lora_weights=False)
    )
    model.save_pretrained(out)
    return out


def test_a_copy_of_the_base_in_one_adapter_changes_no_other_adapters_scores(base: Path, tmp_path: Path) -> None:
    honest, other = adapter(base, tmp_path / "honest", "q_proj"), adapter(base, tmp_path / "other", "lm_head")
    weights = load_file(other / WEIGHTS_FILE)
    changed = {name: tensor + 1 if name.endswith(COPY) else tensor for name, tensor in weights.items()}
    assert any(name.endswith(COPY) for name in weights)
    save_file(changed, other / WEIGHTS_FILE, {"format": "pt"})
    reference = ReferenceModel(str(base))
    before = reference.adapter_scores(str(honest), PROMPTS)
    spoiled = reference.adapter_scores(str(other), PROMPTS)
    assert spoiled != before
    assert reference.adapter_scores(str(honest), PROMPTS) == before
    assert ReferenceModel(str(base)).base_scores(PROMPTS) == reference.base_scores(PROMPTS)
