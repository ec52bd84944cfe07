"""LoftQ: a LoRA on a quantised copy of the base, made by PEFT itself, becomes a LoRA on the base, with a loss."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from adapters.compile.loftq import MAX_ITERATIONS, LoftqRecipe
from adapters.compile.weights import BaseWeights
from adapters.storage.manifest import CONFIG_FILE, INITIAL, WEIGHTS_FILE
from tests.adapters.compile.spoiling import Compile, Refuse, edit_config, edit_tensors, on_the_cpu, train, with_loftq
from tests.adapters.compile.test_lora import plain

RANK = 16
RECIPES = [(4, 1), (8, 1), (4, 2), (8, 3)]
Weights = dict[str, torch.Tensor]
Make = Callable[..., tuple[Path, Weights]]


def weights_of(model: torch.nn.Module) -> Weights:
    """The weight of each module that carries a LoRA, as it is with it."""
    layers = {name: layer for name, layer in model.named_modules() if hasattr(layer, "get_delta_weight")}
    return {
        name.removeprefix("base_model.model."): (layer.base_layer.weight + layer.get_delta_weight("default")).detach()
        for name, layer in layers.items()
    }


@pytest.fixture
def make(fresh: Callable[[], PreTrainedModel], tmp_path: Path) -> Make:
    """Lets PEFT start by LoftQ, train and save both adapters; gives the directory and the weights that were trained."""

    def make(bits: int = 4, iterations: int = 1, by: float = 0.02, **fields: Any) -> tuple[Path, Weights]:
        with on_the_cpu():
            model = get_peft_model(fresh(), with_loftq(plain(**fields), bits, iterations))
        model.save_pretrained(tmp_path / "saved" / INITIAL)
        train(model, by)
        model.save_pretrained(tmp_path / "saved")
        return tmp_path / "saved", weights_of(model)

    return make


def products(adapter: Path) -> Weights:
    """b·a of each module of a compiled adapter, whose scale is 1."""
    tensors = load_file(adapter / WEIGHTS_FILE)
    return {
        name.removeprefix("base_model.model.").removesuffix(".lora_A.weight"): tensors[name.replace("_A", "_B")]
        @ tensors[name]
        for name in tensors
        if "lora_A" in name
    }


@pytest.mark.parametrize(("bits", "iterations"), RECIPES)
def test_what_is_served_is_the_best_lora_for_what_was_trained_less_the_base(
    bits: int, iterations: int, make: Make, compiled: Compile, base: BaseWeights
) -> None:
    source, trained = make(bits, iterations, use_rslora=bits == 8)
    report, out = compiled(source, max_rank=RANK, compress_to=RANK)
    made = products(out)
    assert made.keys() == trained.keys()
    lost = meant = best = 0.0
    for module, change in made.items():
        wanted = (trained[module] - base.read(f"{module}.weight")).double()
        lost += float((change - wanted).norm() ** 2)
        best += float((torch.linalg.svdvals(wanted)[RANK:] ** 2).sum())
        meant += float(wanted.norm() ** 2)
    assert (report.kind, report.method, report.rank_before, report.rank) == ("loftq", "svd", 4, RANK)
    assert lost == pytest.approx(best, rel=1e-3)
    assert report.error == pytest.approx((lost / meant) ** 0.5, rel=1e-3)


def test_above_the_limit_it_is_refused_with_the_loss_and_the_ways_out(
    make: Make, compiled: Compile, refused: Refuse
) -> None:
    source, _ = make()
    (fault,) = refused(source, max_rank=RANK)
    report, _ = compiled(source, max_rank=RANK, compress_to=RANK)
    assert f"loftq, whose change to the weights, cut at rank {RANK}, loses {report.error * 100:.3g} %" in fault.found
    assert f"--compress-to {RANK}" in fault.needed
    assert "QLoRA with init_lora_weights=true" in fault.needed


def test_below_the_limit_it_is_taken_unasked(make: Make, compiled: Compile) -> None:
    source, _ = make(bits=8, by=0.3)  # beside so much training, eight bits lose next to nothing
    report, _ = compiled(source, max_rank=RANK)
    assert (report.kind, report.method) == ("loftq", "svd")
    assert 1e-3 < report.error < 0.02


def test_the_first_adapter_may_be_stored_in_bfloat16_and_say_that_it_is_plain(make: Make, compiled: Compile) -> None:
    source, _ = make()
    whole, _ = compiled(source, compress_to=RANK)
    edit_config(source / INITIAL, init_lora_weights=True, loftq_config={})
    edit_tensors(source / INITIAL, lambda tensors: {name: part.bfloat16() for name, part in tensors.items()})
    assert compiled(source, compress_to=RANK)[0].error == whole.error


def test_another_base_is_refused(make: Make, refused: Refuse, base_directory: Path, tmp_path: Path) -> None:
    source, _ = make()
    other = tmp_path / "other"
    shutil.copytree(base_directory, other)
    weights = {
        name: tensor + 0.1 * tensor.std() * torch.randn_like(tensor) if tensor.dim() == 2 else tensor
        for name, tensor in load_file(other / "model.safetensors").items()
    }
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    (fault,) = refused(source, compress_to=RANK, on=BaseWeights(other))
    assert fault.where.startswith(f"{INITIAL}: model.layers.0")
    assert "another base model or another quantiser" in fault.found


@pytest.mark.parametrize("config", [{"loftq_bits": 8, "loftq_iter": 1}, {"loftq_bits": 4, "loftq_iter": 2}, {}])
def test_another_quantiser_than_the_config_says_is_refused(config: dict[str, int], make: Make, refused: Refuse) -> None:
    source, _ = make(bits=4, iterations=1) if config else make(bits=8, iterations=1)  # empty: PEFT's defaults
    edit_config(source, loftq_config=config)
    (fault,) = refused(source, compress_to=RANK)
    assert "another base model or another quantiser" in fault.found


def test_a_first_adapter_that_was_trained_is_none(make: Make, refused: Refuse) -> None:
    source, _ = make()
    shutil.copy(source / WEIGHTS_FILE, source / INITIAL)
    (fault,) = refused(source, compress_to=RANK)
    assert fault.where.startswith(INITIAL)


def test_without_the_first_adapter_the_refusal_says_where_to_put_it(make: Make, refused: Refuse) -> None:
    source, _ = make()
    shutil.rmtree(source / INITIAL)
    (fault,) = refused(source, compress_to=RANK)
    assert f"two files in {INITIAL}/" in fault.needed
    assert "path_initial_model_for_weight_conversion" not in fault.needed  # PEFT does not convert it


@pytest.mark.parametrize(
    ("field", "value", "needed"),
    [
        ("loftq_bits", 2, "4 or 8"),
        ("loftq_bits", True, "4 or 8"),
        ("loftq_bits", [4], "4 or 8"),
        ("loftq_iter", 0, f"1 to {MAX_ITERATIONS}"),
        ("loftq_iter", 10**9, f"1 to {MAX_ITERATIONS}"),
        ("loftq_iter", True, f"1 to {MAX_ITERATIONS}"),
        ("loftq_iter", 1.0, f"1 to {MAX_ITERATIONS}"),
    ],
)
def test_a_recipe_that_peft_does_not_follow_is_refused(
    field: str, value: Any, needed: str, make: Make, refused: Refuse
) -> None:
    source, _ = make()
    edit_config(source, loftq_config={"loftq_bits": 4, "loftq_iter": 1, field: value})
    (fault,) = refused(source, compress_to=RANK)
    assert fault.where == f"{CONFIG_FILE}: loftq_config.{field}"
    assert needed in fault.needed


def test_dora_on_it_is_refused(make: Make, refused: Refuse) -> None:
    source, _ = make(use_dora=True)
    assert "not both" in refused(source, compress_to=RANK)[0].needed


@pytest.mark.parametrize(("bits", "iterations"), RECIPES)
def test_the_copy_is_pefts_to_the_bit(
    bits: int, iterations: int, fresh: Callable[[], PreTrainedModel], base: BaseWeights
) -> None:
    with on_the_cpu():
        model = get_peft_model(fresh(), with_loftq(plain(), bits, iterations))
    module = "model.layers.1.self_attn.q_proj"
    copy = LoftqRecipe(bits, iterations).copy_of(base.read(f"{module}.weight").float(), 4)
    theirs = model.get_submodule(f"base_model.model.{module}").base_layer.weight
    assert torch.equal(copy, theirs)


def test_a_plain_lora_does_not_pay_for_the_quantiser() -> None:
    code = "import sys, adapters.compile.compiler; sys.exit('bitsandbytes' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
