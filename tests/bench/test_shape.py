"""Bases and adapters that bench makes are what the libraries read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from adapters.base_model import BaseModel
from bench.shape import Shape, write_base

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 128, "head_dim": 16}


@pytest.fixture
def small(tmp_path: Path) -> Shape:
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    write_base(tmp_path / "base", {**Shape.of("embedded", tmp_path).config, **SMALL, **heads})
    return Shape.of(str(tmp_path / "base"), tmp_path)


def test_a_made_base_is_bfloat16_and_has_the_shapes_of_its_config(small: Shape) -> None:
    tensors = load_file(small.directory / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert tensors["model.layers.1.self_attn.k_proj.weight"].shape == (16, 32)
    assert tensors["model.layers.0.mlp.down_proj.weight"].std().item() == pytest.approx(0.02, rel=0.1)
    assert (tensors["model.norm.weight"] == 1).all()


def test_an_adapter_fits_the_base_and_no_two_are_alike(small: Shape, tmp_path: Path) -> None:
    for seed in (0, 1):
        small.write_adapter(tmp_path / str(seed), rank=4, seed=seed)
    one, other = (load_file(tmp_path / str(seed) / "adapter_model.safetensors") for seed in (0, 1))
    assert json.loads((tmp_path / "0" / "adapter_config.json").read_text())["r"] == 4
    for path, (wide, narrow) in small.modules().items():
        a, b = (one[f"base_model.model.{path}.lora_{side}.weight"] for side in "AB")
        assert (a.shape, b.shape) == ((4, narrow), (wide, 4))
        assert not torch.equal(b, other[f"base_model.model.{path}.lora_B.weight"])


def test_the_100m_shape_has_about_100_million_parameters(tmp_path: Path) -> None:
    shape = Shape.of("100m", tmp_path)
    tensors = load_file(shape.directory / "model.safetensors")
    assert 95e6 < sum(tensor.numel() for tensor in tensors.values()) < 110e6


def test_a_base_of_8_billion_parameters_takes_no_space_and_has_every_module(tmp_path: Path) -> None:
    shape = Shape.of("8b", tmp_path)
    weights = shape.directory / "model.safetensors"
    assert weights.stat().st_blocks * 512 < 2**20 < 2**33 < weights.stat().st_size
    base = BaseModel.from_directory(shape.directory, "base")
    assert {path: base.modules[path] for path in shape.modules()} == shape.modules()
    assert base.dtype == "BF16"
    assert shape.flags == ("--load-format", "dummy")
