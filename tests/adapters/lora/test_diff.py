from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from adapters.errors import AdapterTooCostly
from adapters.lora.diff import Comparison, Diff, compare
from adapters.lora.stored_lora import StoredLora
from adapters.processes.limits import ResourceLimits
from adapters.storage.manifest import CONFIG_FILE, WEIGHTS_FILE

QUERIES = ("model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj")
EVERYWHERE = (*QUERIES, "model.layers.1.self_attn.v_proj", "lm_head", "model.embed_tokens")

WriteLora = Callable[..., Path]
Changes = Callable[[Path], dict[str, np.ndarray]]

LORAS = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 1000),
        "rank": st.sampled_from([1, 4, 7]),
        "dtype": st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
        "lora_alpha": st.sampled_from([1, 3, 16.5]),
        "use_rslora": st.booleans(),
    }
)


def diff(a: Path, b: Path) -> Diff:
    return Diff.of(StoredLora.open(a), StoredLora.open(b))


LIMITS = ResourceLimits(memory_bytes=4 << 30, cpu_s=60, wall_s=60.0)


def copy(source: Path, to: Path, change: Callable[[str, torch.Tensor], torch.Tensor], **config: Any) -> Path:
    """Write ``source`` with other tensors and fields."""
    to.mkdir()
    fields = json.loads((source / CONFIG_FILE).read_text())
    (to / CONFIG_FILE).write_text(json.dumps(fields | config))
    tensors = {name: change(name, tensor).contiguous() for name, tensor in load_file(source / WEIGHTS_FILE).items()}
    save_file(tensors, to / WEIGHTS_FILE)
    return to


def assert_alike(total: Comparison) -> None:
    numbers = [total.cosine, total.output_overlap, total.input_overlap]
    assert total.relative_distance < 1e-6
    assert numbers == pytest.approx([1, 1, 1])


def dense_overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Of the column spaces."""
    bases = []
    for change in (one, other):
        left, values, _ = np.linalg.svd(change, full_matrices=False)
        bases.append(left[:, values > 1e-9 * values[0]])
    smaller = min(basis.shape[1] for basis in bases)
    return float(np.sum((bases[0].T @ bases[1]) ** 2)) / smaller


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(one=LORAS, other=LORAS)
def test_what_is_measured_is_true_of_the_whole_weights(
    one: dict[str, Any], other: dict[str, Any], write_lora: WriteLora, changes: Changes
):
    paths = [write_lora(modules=EVERYWHERE, **lora) for lora in (one, other)]
    found = diff(*paths)
    formed = [changes(path) for path in paths]
    for module, comparison in found.modules.items():
        a, b = (each[module] for each in formed)
        measured = comparison.to_json()
        assert measured["norm_a"] == pytest.approx(np.linalg.norm(a))
        assert measured["norm_b"] == pytest.approx(np.linalg.norm(b))
        assert measured["distance"] == pytest.approx(np.linalg.norm(a - b), abs=1e-9)
        larger = max(np.linalg.norm(a), np.linalg.norm(b))
        assert measured["relative_distance"] == pytest.approx(np.linalg.norm(a - b) / larger, abs=1e-9)
        assert measured["cosine"] == pytest.approx(np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-9)
        assert measured["output_overlap"] == pytest.approx(dense_overlap(a, b))
        assert measured["input_overlap"] == pytest.approx(dense_overlap(a.T, b.T))
    long = [np.concatenate([each[module].ravel() for module in found.modules]) for each in formed]
    assert found.total.cosine == pytest.approx(long[0] @ long[1] / np.linalg.norm(long[0]) / np.linalg.norm(long[1]))


def test_a_version_does_not_differ_from_itself(write_lora: WriteLora):
    path = write_lora(modules=EVERYWHERE, dtype=torch.bfloat16, use_rslora=True)
    found = diff(path, path)
    for compared in (found.total, *found.layers.values(), *found.modules.values()):
        assert compared.squared_distance == 0
        assert_alike(compared)


def test_the_same_change_by_other_factors_is_no_difference(write_lora: WriteLora, tmp_path: Path):
    path = write_lora(rank=4)
    turn = torch.randn(4, 4, generator=torch.Generator().manual_seed(0)) + 3 * torch.eye(4)
    turned = copy(path, tmp_path / "turned", lambda name, t: turn @ t if "lora_A" in name else t @ turn.inverse())
    assert_alike(diff(path, turned).total)

    def pad(name: str, tensor: torch.Tensor) -> torch.Tensor:
        return nn_pad(tensor, (0, 0, 0, 3)) if "lora_A" in name else nn_pad(tensor, (0, 3))

    nn_pad = torch.nn.functional.pad
    padded = copy(path, tmp_path / "padded", pad, r=7, lora_alpha=7)
    assert_alike(diff(path, padded).total)


def test_a_small_difference_is_measured_to_its_last_digits(write_lora: WriteLora, tmp_path: Path, changes: Changes):
    path = write_lora(rank=8)
    moved = copy(path, tmp_path / "moved", lambda _, tensor: tensor * (1 + 2**-20))
    before, after = changes(path), changes(moved)
    expected = np.sqrt(sum(np.sum((after[module] - before[module]) ** 2) for module in before))
    assert diff(path, moved).total.to_json()["distance"] == pytest.approx(expected, rel=1e-8)


def test_what_is_the_opposite_is_as_far_as_can_be(write_lora: WriteLora, tmp_path: Path):
    path = write_lora()
    opposite = copy(path, tmp_path / "opposite", lambda name, tensor: -tensor if "lora_B" in name else tensor)
    total = diff(path, opposite).total
    assert (total.relative_distance, total.cosine) == (pytest.approx(2), pytest.approx(-1))
    assert (total.output_overlap, total.input_overlap) == (pytest.approx(1), pytest.approx(1))


def test_a_module_that_only_one_adapts_has_its_whole_norm_as_distance(write_lora: WriteLora):
    found = diff(write_lora(1, modules=QUERIES[:1]), write_lora(2, modules=QUERIES))
    alone = found.modules[QUERIES[1]].to_json()
    assert (alone["norm_a"], alone["norm_b"]) == (0, alone["distance"])
    assert (alone["relative_distance"], alone["cosine"], alone["output_overlap"]) == (1, None, None)
    assert found.total.output_overlap == found.modules[QUERIES[0]].output_overlap


def test_the_biggest_differences_come_first_by_layer_and_by_module(write_lora: WriteLora, tmp_path: Path):
    path = write_lora(modules=EVERYWHERE)
    factor = {"layers.0": 2.0, "layers.1": 3.0, "embed": 1.5, "lm_head": 1.0}

    def scaled(name: str, tensor: torch.Tensor) -> torch.Tensor:
        return tensor * next(f for part, f in factor.items() if part in name) if "_B" in name else tensor

    found = diff(path, copy(path, tmp_path / "scaled", scaled)).to_json()
    assert [each["layer"] for each in found["layers"]] == [
        "model.layers.1",
        "model.layers.0",
        "model.embed_tokens",
        "lm_head",
    ]
    distances = [each["distance"] for each in found["modules"]]
    assert distances == sorted(distances, reverse=True)
    assert len(distances) == len(EVERYWHERE)


async def test_a_comparison_runs_in_a_process_with_limits(write_lora: WriteLora):
    one, other = write_lora(seed=1), write_lora(seed=2)
    assert await compare(one, other, LIMITS) == diff(one, other).to_json()
    with pytest.raises(AdapterTooCostly, match="--max-compile-s"):
        await compare(one, other, replace(LIMITS, wall_s=0.001))
