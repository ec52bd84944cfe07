"""The LoRA family: names, scales, ranks, changed starts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

import embedded
from adapters.compile import skeleton
from adapters.compile.compiler import CompileBounds, compile_directory
from adapters.compile.source import CompileSource
from adapters.compile.weights import BaseWeights
from adapters.lora.peft_config import PeftConfig
from adapters.storage.manifest import CONFIG_FILE, WEIGHTS_FILE
from tests.adapters.compile.spoiling import (
    SPELLINGS,
    Compile,
    Refuse,
    edit_config,
    edit_tensors,
    log_probabilities,
    train,
)

Save = Callable[..., Path]


def plain(**fields: Any) -> LoraConfig:
    defaults = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
    return LoraConfig(**defaults | fields)


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS.keys())
def test_the_names_that_tools_give_tensors_are_read(
    spelling: Callable[[str], str], save: Save, compiled: Compile
) -> None:
    source = save(plain())
    _, meant = compiled(source, out="meant")
    edit_tensors(source, lambda tensors: {spelling(name): tensor for name, tensor in tensors.items()})
    report, out = compiled(source)
    assert (out / WEIGHTS_FILE).read_bytes() == (meant / WEIGHTS_FILE).read_bytes()
    assert "16 tensors had other names" in report.notes[0]


def test_what_unsloth_and_llama_factory_write_beside_the_weights_does_no_harm(save: Save, compiled: Compile) -> None:
    source = save(plain())
    mapping = {"base_model_class": "Qwen3ForCausalLM", "parent_library": "x", "unsloth_fixed": True}
    edit_config(source, auto_mapping=mapping, inference_mode=False, revision="main")
    (source / "README.md").write_text("# mine")
    report, _ = compiled(source)
    assert report.kind == "lora"


@given(
    rank=st.integers(1, 6),
    alpha=st.floats(0.5, 32, width=16),
    ranks=st.dictionaries(st.sampled_from(["q_proj", "layers.1.self_attn.v_proj", r"layers\.[23]"]), st.integers(1, 9)),
    alphas=st.dictionaries(st.sampled_from(["v_proj", "layers.0.self_attn.q_proj"]), st.floats(0.5, 32, width=16)),
    use_rslora=st.booleans(),
)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_mix_of_ranks_and_scales_changes_the_weights_as_in_peft(
    rank: int,
    alpha: float,
    ranks: dict[str, int],
    alphas: dict[str, float],
    use_rslora: bool,
    base: BaseWeights,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    fields = {"r": rank, "lora_alpha": alpha, "rank_pattern": ranks, "alpha_pattern": alphas, "use_rslora": use_rslora}
    fields["target_modules"] = ["layers.1.self_attn.q_proj", "layers.0.self_attn.v_proj", "layers.2.self_attn.q_proj"]
    directory = write(tmp_path_factory.mktemp("adapter"), base, fields)
    meant = dict(skeleton.changes(CompileSource.read(directory, base), LoraConfig(**fields, inference_mode=True), base))
    report = compile_directory(directory, directory / "out", base, CompileBounds(16))
    tensors = load_file(directory / "out" / WEIGHTS_FILE)
    assert report.rank == max(part.shape[0] for name, part in tensors.items() if "lora_A" in name)
    for module, change in meant.items():
        name = f"base_model.model.{module}.lora_"
        made = tensors[f"{name}B.weight"].double() @ tensors[f"{name}A.weight"].double()
        assert torch.linalg.norm(made - change) < 1e-6 * torch.linalg.norm(change)


def write(directory: Path, base: BaseWeights, fields: dict[str, Any]) -> Path:
    """Write a LoRA as ``fields`` of its config describe it."""
    raw = json.dumps({"peft_type": "LORA"} | fields)
    (directory / CONFIG_FILE).write_text(raw)
    config = PeftConfig.parse(raw.encode())
    tensors = {}
    targeted = config.targeted(base.model.modules)
    for module, (out_features, in_features) in base.model.modules.items():
        if module in targeted:
            rank = config.rank_of(module)
            tensors[f"base_model.model.{module}.lora_A.weight"] = torch.randn(rank, in_features)
            tensors[f"base_model.model.{module}.lora_B.weight"] = torch.randn(out_features, rank)
    save_file(tensors, directory / WEIGHTS_FILE)
    return directory


def test_the_canonical_config_says_scale_one_and_nothing_else(save: Save, compiled: Compile) -> None:
    source = save(plain(rank_pattern={"v_proj": 6}))
    edit_config(source, base_model_name_or_path="someone/model")
    report, out = compiled(source)
    config = json.loads((out / CONFIG_FILE).read_text())
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (6, 6, False)
    assert config["target_modules"] == ["q_proj", "v_proj"]
    assert config["base_model_name_or_path"] == "someone/model"
    assert "rank_pattern" not in config
    assert (report.method, report.rank_before, report.rank) == ("folded", 6, 6)


def test_modules_are_named_in_full_where_others_of_the_name_carry_nothing(save: Save, compiled: Compile) -> None:
    _, out = compiled(save(plain(layers_to_transform=[2])))
    config = json.loads((out / CONFIG_FILE).read_text())
    assert config["target_modules"] == ["model.layers.2.self_attn.q_proj", "model.layers.2.self_attn.v_proj"]


def test_tensors_have_the_bases_dtype_and_the_order_in_which_they_are_loaded(save: Save, compiled: Compile) -> None:
    report, out = compiled(save(plain()), on=BaseWeights(embedded.BASE))
    tensors = load_file(out / WEIGHTS_FILE)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    header = json.loads((out / WEIGHTS_FILE).read_bytes()[8:].split(b"}}")[0] + b"}}")
    del header["__metadata__"]
    assert list(header) == sorted(header)
    assert 1e-4 < report.rounding < 5e-3


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_a_changed_start_is_exact_with_its_first_adapter_and_refused_without(
    start: str,
    fresh: Callable[[], PreTrainedModel],
    compiled: Compile,
    refused: Refuse,
    answers: Callable[[Path], torch.Tensor],
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    model = get_peft_model(fresh(), plain(init_lora_weights=start)).eval()
    source = tmp_path / "saved"
    model.save_pretrained(source / "first")
    train(model)
    model.save_pretrained(source)
    (fault,) = refused(source)
    assert start in fault.found
    assert "path_initial_model_for_weight_conversion" in fault.needed
    (source / "first").rename(source / "initial")
    report, out = compiled(source)
    assert (report.kind, report.rank_before, report.rank) == (start, 4, 8)
    assert (log_probabilities(model) - answers(out)).abs().max() < 2e-4


def test_a_first_adapter_of_another_run_is_refused(save: Save, refused: Refuse, tmp_path: Path) -> None:
    source = save(plain(init_lora_weights="pissa"))
    first = tmp_path / "first"
    shutil.copytree(source, first)
    edit_tensors(first, lambda tensors: {name: part for name, part in tensors.items() if "layers.1" not in name})
    shutil.move(first, source / "initial")
    (fault,) = refused(source)
    assert fault.where == "initial"


def test_a_rank_above_the_servers_is_refused_with_both_ways_out(
    save: Save, compiled: Compile, refused: Refuse, answers: Callable[[Path], torch.Tensor]
) -> None:
    source = save(plain(r=24))
    (fault,) = refused(source, max_rank=16)
    assert fault.found == "rank 24"
    assert "--max-lora-rank 32" in fault.needed
    assert "--compress-to 16" in fault.needed
    report, out = compiled(source, max_rank=16, compress_to=16)
    assert (report.method, report.rank_before, report.rank) == ("svd", 24, 16)
    assert f"{report.error * 100:.3g} %" in fault.needed
    assert (answers(source) - answers(out)).abs().max() > 1e-3


def test_a_rank_that_is_never_used_costs_nothing(
    save: Save, compiled: Compile, answers: Callable[[Path], torch.Tensor]
) -> None:
    source = save(plain(r=24))

    def halve(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        for name, tensor in tensors.items():
            if "lora_A" in name:
                tensor[12:] = tensor[:12]
        return tensors

    edit_tensors(source, halve)
    report, out = compiled(source, max_rank=16)
    assert (report.method, report.rank) == ("exact", 12)
    assert (answers(source) - answers(out)).abs().max() < 2e-4


def test_copies_of_the_base_are_dropped_and_changed_ones_refused(
    save: Save, compiled: Compile, refused: Refuse, base: BaseWeights
) -> None:
    source = save(plain())
    names = ["model.embed_tokens", "model.norm"]
    copies = {f"base_model.model.{name}.weight": base.read(f"{name}.weight") for name in names}
    copies["base_model.model.lm_head.modules_to_save.weight"] = base.read("model.embed_tokens.weight")
    edit_config(source, modules_to_save=["embed_tokens", "norm", "lm_head"])
    edit_tensors(source, lambda tensors: tensors | copies)
    report, out = compiled(source)
    assert report.dropped == tuple(sorted(copies))
    shutil.rmtree(out)
    copies["base_model.model.model.norm.weight"] *= 1.01
    edit_tensors(source, lambda tensors: tensors | copies)
    (fault,) = refused(source)
    assert "model.norm.weight that differs" in fault.found


def test_an_output_head_of_its_own_may_carry_a_lora(
    fresh: Callable[[], PreTrainedModel], tmp_path: Path, save: Save
) -> None:
    model = fresh()
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    model.save_pretrained(tmp_path / "untied")
    adapted = get_peft_model(model, plain(target_modules=["lm_head", "embed_tokens", "q_proj"]))
    train(adapted)
    adapted.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    base = BaseWeights(tmp_path / "untied")
    report = compile_directory(tmp_path / "adapter", tmp_path / "out", base, CompileBounds(16))
    tensors = load_file(tmp_path / "out" / WEIGHTS_FILE)
    assert report.rank == 4
    assert tensors["base_model.model.model.embed_tokens.lora_embedding_A"].shape == (4, 4096)
    assert tensors["base_model.model.lm_head.lora_B.weight"].shape == (4096, 4)


def test_a_file_saved_again_by_hand_keeps_its_meaning(save: Save, compiled: Compile) -> None:
    source = save(plain())
    _, meant = compiled(source, out="meant")
    tensors = load_file(source / WEIGHTS_FILE)
    save_file({name: tensors[name] for name in reversed(tensors)}, source / WEIGHTS_FILE, metadata={"a": "b"})
    _, out = compiled(source)
    assert (out / WEIGHTS_FILE).read_bytes() == (meant / WEIGHTS_FILE).read_bytes()
