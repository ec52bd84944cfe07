"""The recipe makes the same bytes again, and its record describes them."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase, Qwen3Config

import embedded
from embedded import ADAPTERS, BASE
from embedded.recipe import batches, pretrain, tokenizer, unseen


@pytest.fixture(scope="module")
def tokenizer_made_again(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("recipe")
    tokenizer.train(seed=0).save_pretrained(out)
    return out


def test_the_committed_tokenizer_is_what_the_recipe_trains(tokenizer_made_again: Path) -> None:
    for file in tokenizer_made_again.iterdir():
        assert file.read_bytes() == (BASE / file.name).read_bytes(), file.name


def test_the_same_seed_gives_the_same_weights_and_another_seed_gives_others(
    tokenizer_made_again: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow = {"hidden_size": 64, "intermediate_size": 64}
    whole = pretrain.architecture
    monkeypatch.setattr(pretrain, "architecture", lambda made: Qwen3Config(**whole(made).to_dict() | narrow))
    monkeypatch.setattr(batches, "_CHUNK", 200)
    monkeypatch.setattr(unseen, "_DOCUMENTS", 1000)

    def weights(seed: int) -> str:
        pretrain.pretrain(tokenizer_made_again, pretrain.PretrainHyperparameters(seed=seed, steps=3, batch_tokens=512))
        return hashlib.sha256((tokenizer_made_again / "model.safetensors").read_bytes()).hexdigest()

    first = weights(0)
    assert first == weights(0)
    assert first != weights(1)


def test_the_record_describes_the_committed_weights() -> None:
    record = json.loads((BASE / "recipe.json").read_text())
    settings = pretrain.PretrainHyperparameters()
    assert (record["seed"], record["steps"]) == (settings.seed, settings.steps)
    assert record["sha256"] == hashlib.sha256((BASE / "model.safetensors").read_bytes()).hexdigest()


def test_tokens_that_no_document_has_differ_as_much_as_others(
    base: tuple[PreTrainedModel, PreTrainedTokenizerBase],
) -> None:
    """LoRA does not train the embedding: what is equal there, no adapter can tell apart."""
    model, made_of = base
    rows = model.get_input_embeddings().weight.detach()
    found = unseen.unseen_tokens(made_of, seed=0)
    assert {"$", "%", "&", "/", "@", "\\", "^", "_", "`", "|", "~"} <= set(made_of.convert_ids_to_tokens(found))
    common = [token for token in range(len(rows)) if token not in set(found)]
    assert torch.pdist(rows[found]).median() >= torch.pdist(rows[common[:1000]]).median() * 0.9
    assert torch.pdist(rows[found]).min() > 1


def test_new_embeddings_for_unseen_tokens_leave_the_others_alone() -> None:
    before = torch.randn(50, 8, generator=torch.Generator().manual_seed(1)).bfloat16()
    after = before.clone()
    unseen.separate(after, [3, 7, 49], seed=0)
    changed = (before != after).any(dim=1).nonzero().flatten().tolist()
    assert changed == [3, 7, 49]


def test_the_weights_are_small() -> None:
    assert (BASE / "model.safetensors").stat().st_size <= 8_000_000


def test_generation_stops_at_the_end_of_a_turn(base: tuple[PreTrainedModel, PreTrainedTokenizerBase]) -> None:
    assert base[1].eos_token == "<|im_end|>"
    assert GenerationConfig.from_pretrained(BASE).eos_token_id == base[1].eos_token_id


def test_no_committed_text_names_a_path_of_the_machine_that_made_it() -> None:
    for folder in (BASE, ADAPTERS):
        for file in folder.rglob("*.json"):
            if file.name != "tokenizer.json":
                assert '"/' not in file.read_text(), file


def test_importing_the_package_imports_nothing_heavy() -> None:
    loaded = subprocess.run(
        [sys.executable, "-c", "import embedded, sys; print('torch' in sys.modules)"],
        cwd=BASE.parent.parent, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert loaded.stdout.strip() == "False"
    assert set(embedded.__all__) == {"ADAPTERS", "BASE", "DATA"}
