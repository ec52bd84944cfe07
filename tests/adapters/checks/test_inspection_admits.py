"""Every kind of adapter that the engine serves as PEFT does comes through, with a true report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from adapters.base_model import BaseModel
from adapters.checks.inspection import AdapterLimits, inspect_adapter
from adapters.errors import AdapterRefused
from tests.adapters.checks.conftest import Admit, MakeAdapter

Tune = Callable[..., tuple[BaseModel, peft.PeftModel]]

PREFIX = "base_model.model."
ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def test_reports_what_it_saw(plain: MakeAdapter, admit: Admit, tiny_base: BaseModel) -> None:
    adapter = plain()
    adapter.poison(f"{PREFIX}model.layers.0.self_attn.q_proj.lora_B.weight", -2.5)
    report = admit(adapter)
    assert (report.rank, report.ranks, report.alphas) == (8, {8: 4}, {16: 4})
    assert (report.modules, report.tensors, report.dtypes) == (4, 8, ("F32",))
    assert report.target_modules == ("q_proj", "v_proj")
    assert report.max_abs == 2.5
    assert report.base_fingerprint == tiny_base.fingerprint
    assert report.size_bytes > 4 * 8 * (4 * 16 + 2 * 16 + 2 * 8)
    assert report.notes == ()


def test_the_report_is_json(plain: MakeAdapter, admit: Admit) -> None:
    report = admit(plain(rank_pattern={}, alpha_pattern={"q_proj": 2.5})).to_json()
    assert json.loads(json.dumps(report)) == report
    assert report["alphas"] == {"2.5": 2, "16": 2}


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_admits_each_dtype(dtype: str, plain: MakeAdapter, admit: Admit) -> None:
    assert admit(plain(dtype=dtype)).dtypes == (dtype,)


def test_admits_all_linear_modules(plain: MakeAdapter, admit: Admit) -> None:
    assert admit(plain(targets=ALL_LINEAR)).modules == 14


def test_admits_rank_stabilised_scaling(plain: MakeAdapter, admit: Admit) -> None:
    assert admit(plain(use_rslora=True)).use_rslora


def test_admits_ranks_and_alphas_by_pattern(plain: MakeAdapter, admit: Admit) -> None:
    adapter = plain(
        rank=lambda module: 2 if module.endswith("1.self_attn.q_proj") else 8,
        rank_pattern={"layers.1.self_attn.q_proj": 2},
        alpha_pattern={"v_proj": 32},
    )
    report = admit(adapter)
    assert (report.rank, report.ranks, report.alphas) == (8, {2: 1, 8: 3}, {16: 2, 32: 2})


@pytest.mark.parametrize(
    "config",
    [
        {"layers_to_transform": [1]},
        {"target_modules": ["model.layers.1.self_attn.q_proj", "layers.1.self_attn.v_proj"]},
        {"target_modules": r".*layers\.1\.self_attn\.(q|v)_proj"},
    ],
)
def test_admits_some_layers_only(config: dict[str, Any], plain: MakeAdapter, admit: Admit) -> None:
    adapter = plain(**config)
    adapter.tensors = {key: tensor for key, tensor in adapter.tensors.items() if "layers.1." in key}
    report = admit(adapter)
    assert (report.modules, report.notes) == (2, ())


def test_notes_the_layers_that_a_target_names_but_the_file_lacks(plain: MakeAdapter, admit: Admit) -> None:
    adapter = plain()
    adapter.tensors = {key: tensor for key, tensor in adapter.tensors.items() if "layers.1." in key}
    [note] = admit(adapter).notes
    assert note.startswith("2 modules")


def test_admits_a_target_that_the_base_does_not_have(plain: MakeAdapter, admit: Admit) -> None:
    assert admit(plain(target_modules=["q_proj", "v_proj", "c_attn"])).modules == 4


def test_admits_keys_without_the_prefix_as_the_engine_does(plain: MakeAdapter, admit: Admit) -> None:
    adapter = plain()
    adapter.rename(PREFIX, "")
    assert admit(adapter).modules == 4


def test_admits_a_readme(plain: MakeAdapter, admit: Admit) -> None:
    adapter = plain()
    adapter.extra["README.md"] = b"# sql"
    assert admit(adapter).modules == 4


def test_admits_one_dead_module_among_live_ones(plain: MakeAdapter, admit: Admit) -> None:
    adapter = plain()
    key = f"{PREFIX}model.layers.0.self_attn.q_proj.lora_B.weight"
    adapter.put(key, np.zeros_like(adapter.array(key)))
    assert admit(adapter).modules == 4


def test_admits_the_head_and_the_embedding_of_an_untied_base(
    plain: MakeAdapter, admit: Admit, untied_base: BaseModel
) -> None:
    adapter = plain(targets=("q_proj", "lm_head", "embed_tokens"), modules=dict(untied_base.modules))
    adapter.put(f"{PREFIX}lm_head.base_layer.weight", np.ones((40, 16)))
    adapter.put(f"{PREFIX}model.embed_tokens.base_layer.weight", np.ones((40, 16)))
    report = admit(adapter, base=untied_base)
    assert report.target_modules == ("embed_tokens", "lm_head", "q_proj")
    assert any("copies of the base model's weights" in note for note in report.notes)


@pytest.mark.parametrize(("declared", "notes"), [("org/Tiny", 0), (None, 0), ("meta/other-7b", 1)])
def test_notes_another_declared_base(declared: str | None, notes: int, plain: MakeAdapter, admit: Admit) -> None:
    report = admit(plain(base_model_name_or_path=declared))
    assert (report.declared_base, len(report.notes)) == (declared, notes)


@pytest.fixture
def tune(tmp_path: Path) -> Tune:
    """Saves a real model and a real adapter for it; gives the checks' BaseModel of it, and the tuned model."""

    def save_both(*, tied: bool, **choice: Any) -> tuple[BaseModel, peft.PeftModel]:
        config = LlamaConfig(
            vocab_size=40,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            tie_word_embeddings=tied,
        )
        LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
        model = LlamaForCausalLM.from_pretrained(tmp_path / "base")
        tuned = peft.get_peft_model(model, peft.LoraConfig(r=4, task_type="CAUSAL_LM", **choice))
        with torch.no_grad():
            for name, parameter in tuned.named_parameters():
                if "lora_" in name:
                    parameter.normal_(std=0.1)
        tuned.save_pretrained(tmp_path / "adapter")
        return BaseModel.from_directory(tmp_path / "base", name="tiny"), tuned

    return save_both


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "choice",
    [
        {"target_modules": "all-linear"},
        {"target_modules": ["q_proj", "v_proj"], "use_rslora": True, "init_lora_weights": "gaussian"},
        {"target_modules": ["q_proj", "down_proj"], "rank_pattern": {"layers.1.mlp.down_proj": 2}},
        {"target_modules": ["k_proj"], "layers_to_transform": [1], "alpha_pattern": {"k_proj": 3}},
    ],
)
def test_a_real_adapter_of_a_real_model_comes_through(
    choice: dict[str, Any], tied: bool, tune: Tune, tmp_path: Path
) -> None:
    base, tuned = tune(tied=tied, **choice)
    report = inspect_adapter(tmp_path / "adapter", base, AdapterLimits(max_rank=8, max_bytes=1 << 20)).report
    adapted = [name for name, module in tuned.named_modules() if isinstance(module, peft.tuners.lora.LoraLayer)]
    assert report.modules == len(adapted)
    assert report.rank == 4
    assert report.declared_base == str(tmp_path / "base")


EMBEDDINGS = ["lm_head", "embed_tokens", "q_proj"]


def test_a_real_adapter_of_untied_embeddings_comes_through(tune: Tune, tmp_path: Path) -> None:
    base, _ = tune(tied=False, target_modules=EMBEDDINGS)
    report = inspect_adapter(tmp_path / "adapter", base, AdapterLimits(max_rank=8, max_bytes=1 << 20)).report
    assert report.target_modules == ("embed_tokens", "lm_head", "q_proj")


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
def test_a_real_adapter_of_tied_embeddings_is_refused(tune: Tune, tmp_path: Path) -> None:
    base, _ = tune(tied=True, target_modules=EMBEDDINGS)
    with pytest.raises(AdapterRefused, match="embeddings are tied"):
        inspect_adapter(tmp_path / "adapter", base, AdapterLimits(max_rank=8, max_bytes=1 << 20))


def test_ranks_and_alphas_by_a_pattern_with_groups_are_pefts(plain: MakeAdapter, admit: Admit) -> None:
    pattern = r".*\.layers\.1\..*(q_proj|k_proj)$"
    adapter = plain(
        rank=lambda module: 2 if module.endswith("1.self_attn.q_proj") else 8,
        rank_pattern={pattern: 2},
        alpha_pattern={pattern: 32},
    )
    report = admit(adapter)
    assert (report.ranks, report.alphas) == ({2: 1, 8: 3}, {16: 3, 32: 1})


def test_ignored_fields_and_a_base_that_is_a_path_are_in_the_notes(plain: MakeAdapter, admit: Admit) -> None:
    report = admit(plain(torch_dtype="bfloat16", enable_lora=[True], base_model_name_or_path="./outputs/merged"))
    by_path, ignored = report.notes
    assert '"./outputs/merged"' in by_path
    assert "its shapes fit tiny" in by_path
    assert ignored.endswith("ignored, as PEFT does: enable_lora, torch_dtype")
