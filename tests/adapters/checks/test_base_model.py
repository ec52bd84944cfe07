"""The base model's shapes and identity, read from a directory in Hugging Face format."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from adapters.base_model import BaseModel
from adapters.errors import BaseModelUnreadable

CONFIG = {
    "model_type": "llama",
    "tie_word_embeddings": False,
    "dtype": "bfloat16",
    "transformers_version": "5.1",
}


def weights(**shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    return {name.replace("__", "."): np.zeros(shape, np.float16) for name, shape in shapes.items()}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    tensors = weights(
        model__embed_tokens__weight=(40, 16),
        model__layers__0__self_attn__q_proj__weight=(32, 16),
        model__layers__0__self_attn__q_proj__bias=(32,),
        model__norm__weight=(16,),
        lm_head__weight=(40, 16),
    )
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path


def test_lists_linear_modules_with_their_shapes(directory: Path) -> None:
    base = BaseModel.from_directory(directory, "tiny")
    assert base.name == "tiny"
    assert base.modules == {
        "lm_head": (40, 16),
        "model.embed_tokens": (16, 40),
        "model.layers.0.self_attn.q_proj": (32, 16),
    }


def test_a_tied_base_lists_neither_head_nor_embedding(directory: Path) -> None:
    (directory / "config.json").write_text(json.dumps(CONFIG | {"tie_word_embeddings": True}))
    assert list(BaseModel.from_directory(directory, "tiny").modules) == ["model.layers.0.self_attn.q_proj"]


def test_a_base_without_a_head_in_its_files_is_tied(directory: Path) -> None:
    (directory / "config.json").write_text("{}")
    save_file(weights(model__embed_tokens__weight=(40, 16), x__weight=(2, 2)), directory / "model.safetensors")
    assert list(BaseModel.from_directory(directory, "tiny").modules) == ["x"]


def test_reads_a_config_with_infinity(directory: Path) -> None:
    (directory / "config.json").write_text('{"time_step_limit": [0.0, Infinity]}')
    assert len(BaseModel.from_directory(directory, "tiny").modules) == 3


def test_reads_every_shard(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "model-00001-of-00002.safetensors")
    save_file(
        weights(model__layers__1__mlp__up_proj__weight=(8, 16)),
        directory / "model-00002-of-00002.safetensors",
    )
    assert BaseModel.from_directory(directory, "tiny").modules["model.layers.1.mlp.up_proj"] == (8, 16)


def test_leaves_out_a_second_copy_under_other_names(directory: Path) -> None:
    save_file(weights(layers__0__attention__wq__weight=(32, 16)), directory / "consolidated.safetensors")
    assert len(BaseModel.from_directory(directory, "tiny").modules) == 3


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "float32"},
        {"torch_dtype": "float16"},
        {"transformers_version": "4.50"},
        {"_name_or_path": "elsewhere"},
    ],
)
def test_the_fingerprint_survives_what_does_not_change_the_model(change: dict[str, str], directory: Path) -> None:
    before = BaseModel.from_directory(directory, "tiny").fingerprint
    (directory / "config.json").write_text(json.dumps(dict(reversed((CONFIG | change).items()))))
    assert BaseModel.from_directory(directory, "other name").fingerprint == before


def test_the_fingerprint_tells_models_apart(directory: Path) -> None:
    one = BaseModel.from_directory(directory, "tiny")
    other_config = BaseModel.from_shapes("tiny", CONFIG | {"rope_theta": 1e6}, one.modules)
    other_shapes = BaseModel.from_shapes("tiny", CONFIG, dict(one.modules) | {"lm_head": (41, 16)})
    assert len({one.fingerprint, other_config.fingerprint, other_shapes.fingerprint}) == 3


def test_shapes_known_otherwise_give_the_same_base(directory: Path) -> None:
    read = BaseModel.from_directory(directory, "tiny")
    assert BaseModel.from_shapes("tiny", CONFIG, dict(reversed(read.modules.items()))) == read


def without_config(directory: Path) -> None:
    (directory / "config.json").unlink()


def with_broken_config(directory: Path) -> None:
    (directory / "config.json").write_text("[1]")


def without_weights(directory: Path) -> None:
    (directory / "model.safetensors").unlink()


def with_pickled_weights(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")


def with_cut_weights(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def with_packed_weights(directory: Path) -> None:
    (directory / "config.json").write_text(json.dumps(CONFIG | {"quantization_config": {"quant_method": "awq"}}))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (without_config, "config.json is missing"),
        (with_broken_config, "not a JSON object"),
        (without_weights, "no \\*.safetensors"),
        (with_pickled_weights, "no \\*.safetensors"),
        (with_cut_weights, "cut off"),
        (with_packed_weights, "quantised"),
    ],
)
def test_says_what_it_misses(spoil: Callable[[Path], None], reason: str, directory: Path) -> None:
    spoil(directory)
    with pytest.raises(BaseModelUnreadable, match=reason):
        BaseModel.from_directory(directory, "tiny")
