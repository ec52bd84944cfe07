"""Every kind of adapter that PEFT makes: served exactly, or refused with the loss it would have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from safetensors.torch import load_file
from transformers import PreTrainedModel

from adapters.checks.inspection import AdapterLimits, inspect_adapter
from adapters.compile import kinds
from adapters.compile.compiler import EXACT_ERROR, MAX_ERROR
from adapters.compile.weights import BaseWeights
from adapters.storage.manifest import FILES, WEIGHTS_FILE
from tests.adapters.compile.spoiling import Compile, Refuse, config_of, train

ADALORA = ("ADALORA", {"init_r": 6, "target_r": 4, "total_step": 10, "tinit": 1, "tfinal": 1})
VB_BEST = {"r": 4, "num_vectors": 32, "vector_length": 64, "save_only_topk_weights": True}
EXACT: list[tuple[str, str, dict[str, Any], int]] = [
    ("lora", "LORA", {"r": 4, "lora_alpha": 8}, 4),
    ("rslora", "LORA", {"r": 4, "lora_alpha": 8, "use_rslora": True}, 4),
    ("patterns", "LORA", {"r": 4, "rank_pattern": {"v_proj": 7}, "alpha_pattern": {"layers.1.mlp.down_proj": 3}}, 7),
    ("layers", "LORA", {"r": 4, "layers_to_transform": [1, 2]}, 4),
    ("a regex", "LORA", {"r": 4, "target_modules": r".*layers\.(0|2)\..*(q|k)_proj"}, 4),
    ("adalora", *ADALORA, 6),
    ("loha", "LOHA", {"r": 3, "alpha": 5}, 9),
    ("loha with patterns", "LOHA", {"r": 2, "rank_pattern": {"v_proj": 3}, "alpha_pattern": {"q_proj": 3}}, 9),
    ("lokr", "LOKR", {"r": 4, "alpha": 5}, 64),
    ("lokr, both parts factored", "LOKR", {"r": 2, "decompose_both": True, "decompose_factor": 8}, 4),
    ("vera", "VERA", {"r": 16}, 16),
    ("vera, projections drawn anew", "VERA", {"r": 16, "save_projection": False}, 16),
    ("pvera", "PVERA", {"r": 16}, 16),
    ("vblora", "VBLORA", {"r": 4, "num_vectors": 32, "vector_length": 64}, 4),
    ("vblora, best vectors alone", "VBLORA", VB_BEST, 4),
    ("hra", "HRA", {"r": 4}, 4),
    ("hra, orthogonal", "HRA", {"r": 4, "apply_GS": True}, 4),
    ("miss", "MISS", {"r": 8}, 8),
    ("miss, mini", "MISS", {"r": 8, "init_weights": "mini", "mini_r": 8}, 8),
    ("gralora", "GRALORA", {"r": 8}, 16),
    ("delora", "DELORA", {"r": 8}, 8),
    ("deft", "DEFT", {"r": 8}, 8),
    ("fourierft", "FOURIERFT", {"n_frequency": 30}, 51),
    ("waveft", "WAVEFT", {"n_frequency": 50}, 50),
    ("peanut", "PEANUT", {"r": 32}, 32),
]
"""A name, PEFT's type, its config, and the rank that the change to the weights has at most."""

FULL_RANK: list[tuple[str, dict[str, Any]]] = [
    ("LORA", {"use_dora": True, "r": 4, "lora_alpha": 8}),
    ("LORA", {"use_dora": True, "r": 4, "use_rslora": True, "rank_pattern": {"v_proj": 6}}),
    ("MISS", {"r": 8, "init_weights": "bat"}),
    ("BOFT", {"boft_block_size": 8}),
    ("C3A", {"block_size": 64}),
    ("GLORA", {}),
    ("HIRA", {"r": 4}),
    ("IA3", {"feedforward_modules": ["down_proj"]}),
    ("OFT", {"oft_block_size": 32}),
    ("OFT", {"oft_block_size": 32, "block_share": True, "coft": True, "use_cayley_neumann": False}),
    ("RANDLORA", {"r": 16}),
    ("RANDLORA", {"r": 16, "sparse": True, "save_projection": False}),
    ("ROAD", {"group_size": 64}),
    ("SHIRA", {"r": 2}),
    ("SUPERTUNING", {}),
]


@pytest.mark.parametrize(("name", "kind", "fields", "rank"), EXACT, ids=[row[0] for row in EXACT])
def test_an_adapter_of_low_rank_is_compiled_exactly(
    name: str,
    kind: str,
    fields: dict[str, Any],
    rank: int,
    save: Callable[..., Path],
    compiled: Compile,
    answers: Callable[[Path], torch.Tensor],
    base: BaseWeights,
) -> None:
    source = save(config_of(kind, fields))
    report, out = compiled(source)
    assert report.rank <= rank
    assert report.error <= EXACT_ERROR
    assert report.rounding < 1e-6
    difference = (answers(source) - answers(out)).abs()
    assert difference.max() < 2e-4
    assert difference.mean() < 2e-5
    assert inspect_adapter(out, base.model, AdapterLimits(64, 1 << 24)).report.rank == report.rank


@pytest.mark.parametrize(("kind", "fields"), FULL_RANK, ids=[row[0] for row in FULL_RANK])
def test_an_adapter_of_full_rank_is_refused_with_its_loss_and_compiled_where_the_rank_is_served(
    kind: str,
    fields: dict[str, Any],
    save: Callable[..., Path],
    compiled: Compile,
    refused: Refuse,
    answers: Callable[[Path], torch.Tensor],
) -> None:
    source = save(config_of(kind, fields))
    (fault,) = refused(source, max_rank=16)
    assert "loses" in fault.found
    assert f"{MAX_ERROR * 100:g} %" in fault.needed
    assert "--compress-to 16" in fault.needed
    report, out = compiled(source, max_rank=256)
    assert report.error <= EXACT_ERROR
    assert (answers(source) - answers(out)).abs().max() < 5e-4


def test_an_adalora_is_compiled_with_the_ranks_that_training_left(
    fresh: Callable[[], PreTrainedModel], compiled: Compile, answers: Callable[[Path], torch.Tensor], tmp_path: Path
) -> None:
    model = get_peft_model(fresh(), config_of(*ADALORA))
    train(model)
    kept = [True, False, True, True, False, False]
    model.peft_config["default"].rank_pattern = {
        f"{name}.lora_E": kept for name in ("model.layers.0.self_attn.q_proj", "model.layers.3.mlp.down_proj")
    }
    model.save_pretrained(tmp_path / "saved")
    report, out = compiled(tmp_path / "saved")
    assert report.rank == 6
    tensors = load_file(out / WEIGHTS_FILE)
    assert torch.linalg.matrix_rank(tensors["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"]) == 3
    assert (answers(tmp_path / "saved") - answers(out)).abs().max() < 2e-4


def test_every_kind_that_is_compiled_is_in_these_tables() -> None:
    tried = {row[1] for row in EXACT} | {row[0] for row in FULL_RANK}
    assert tried == kinds.CHANGES | {"LORA"}


def test_every_kind_that_peft_knows_is_compiled_or_refused_with_its_own_reason() -> None:
    for kind in PEFT_TYPE_TO_CONFIG_MAPPING:
        fault = kinds.refusal(kind.value)
        assert (fault is None) == (kind.value in kinds.CHANGES | {"LORA"})
        assert fault is None or ": " in fault.found


def test_what_was_compiled_compiles_to_the_same_bytes(save: Callable[..., Path], compiled: Compile) -> None:
    for kind, fields in (("LORA", {"r": 4, "rank_pattern": {"v_proj": 7}, "use_rslora": True}), ("LOHA", {"r": 3})):
        _, once = compiled(save(config_of(kind, fields)), out="once")
        report, twice = compiled(once, out="twice")
        assert report.method == "as is"
        for name in FILES:
            assert (once / name).read_bytes() == (twice / name).read_bytes()


def test_the_same_adapter_becomes_the_same_bytes(save: Callable[..., Path], compiled: Compile) -> None:
    source = save(config_of("LOHA", {"r": 3}))
    _, one = compiled(source, out="one")
    _, other = compiled(source, out="other")
    for name in FILES:
        assert (one / name).read_bytes() == (other / name).read_bytes()
