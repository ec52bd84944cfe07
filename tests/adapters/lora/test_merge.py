from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from peft.utils.save_and_load import load_peft_weights, set_peft_model_state_dict
from safetensors.torch import load_file, save
from torch import nn

from adapters.base_model import BaseModel
from adapters.checks.inspection import AdapterLimits, inspect_adapter
from adapters.compile import peft_merge
from adapters.errors import AdapterRefused
from adapters.lora.merge.merge import MergeBounds, merge
from adapters.lora.merge.recipe import Ingredient, MergeMethod, MergeRecipe
from adapters.lora.stored_lora import StoredLora
from adapters.processes.limits import ResourceLimits
from adapters.storage.manifest import CONFIG_FILE, WEIGHTS_FILE, Manifest
from adapters.versions import Version

AMPLE = ResourceLimits(memory_bytes=2 << 30, cpu_s=300, wall_s=500)
MAX_RANK = 16
QUERY = "model.layers.0.self_attn.q_proj"
EVERYWHERE = (QUERY, "model.layers.1.self_attn.v_proj", "lm_head", "model.embed_tokens")

WriteLora = Callable[..., Path]
Changes = Callable[[Path], dict[str, np.ndarray]]
Merge = Callable[..., Awaitable[tuple[Path, dict[str, Any]]]]


def recipe_of(weights: Sequence[float], **how: Any) -> MergeRecipe:
    now = datetime.now(UTC)
    versions = [Version(n, "sql", n, f"{n:064}", "base", 4, 1000, "upload", now) for n in range(1, len(weights) + 1)]
    return MergeRecipe(tuple(map(Ingredient, versions, weights)), **how)


@pytest.fixture
def merged(lora_base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Merge:
    """Merges directories, each with its weight; gives the directory that was written, and the report."""

    async def write(*terms: tuple[Path, float], **how: Any) -> tuple[Path, dict[str, Any]]:
        out = tmp_path_factory.mktemp("merged")
        recipe = recipe_of([weight for _, weight in terms], **how)
        report = await merge(recipe, [path for path, _ in terms], out, MergeBounds(lora_base, MAX_RANK, AMPLE))
        return out, report

    return write


@pytest.fixture
async def refusal(merged: Merge) -> Callable[..., Awaitable[str]]:
    async def words(*terms: tuple[Path, float], **how: Any) -> str:
        with pytest.raises(AdapterRefused) as refused:
            await merged(*terms, **how)
        (fault,) = refused.value.faults
        return f"{fault.found}; {fault.needed}"

    return words


def distance(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    """Of all modules together, relative to the larger."""
    norms = [np.sqrt(sum(np.sum(each**2) for each in changes.values())) for changes in (one, other)]
    apart = [one.get(module, 0.0) - other.get(module, 0.0) for module in {*one, *other}]
    return float(np.sqrt(sum(np.sum(each**2) for each in apart)) / max(norms))


def total(parts: Sequence[tuple[dict[str, np.ndarray], float]]) -> dict[str, np.ndarray]:
    summed: dict[str, np.ndarray] = {}
    for changes, weight in parts:
        for module, change in changes.items():
            summed[module] = summed.get(module, 0.0) + weight * change
    return summed


LORAS = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 1000),
        "rank": st.sampled_from([1, 2, 3, 5]),
        "modules": st.lists(st.sampled_from(EVERYWHERE), min_size=1, unique=True),
        "lora_alpha": st.sampled_from([1, 3, 8, 16.5]),
        "use_rslora": st.booleans(),
    }
)
WEIGHTS = st.floats(0.01, 2).flatmap(lambda weight: st.sampled_from([weight, -weight]))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    terms=st.lists(st.tuples(LORAS, WEIGHTS), min_size=1, max_size=3),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_linear_is_the_sum_of_what_the_versions_add(
    terms: list[tuple[dict[str, Any], float]],
    dtype: torch.dtype,
    write_lora: WriteLora,
    merged: Merge,
    changes: Changes,
):
    written = [(write_lora(dtype=dtype, **lora), weight) for lora, weight in terms]
    out, report = asyncio.run(merged(*written))
    expected = total([(changes(path), weight) for path, weight in written])
    # summands may cancel: the rounding is that of what is stored, the summands
    size = max(np.linalg.norm(weight * change) for path, weight in written for change in changes(path).values())
    eps = torch.finfo(dtype).eps
    for module, change in changes(out).items():
        assert np.linalg.norm(change - expected[module]) <= 3 * eps * size
    assert changes(out).keys() == expected.keys()
    assert report["rounding"] <= eps or len(terms) > 1


async def test_one_version_with_weight_1_stays_what_it_is(write_lora: WriteLora, merged: Merge, changes: Changes):
    path = write_lora(dtype=torch.bfloat16, lora_alpha=16)
    out, report = await merged((path, 1.0))
    assert distance(changes(out), changes(path)) == 0
    assert (report["rank_before"], report["rank"], report["error"], report["rounding"]) == (4, 4, 0, 0)


async def test_a_merge_passes_the_checks_with_one_rank(write_lora: WriteLora, merged: Merge, lora_base: BaseModel):
    terms = [(write_lora(1, modules=EVERYWHERE, rank=3), 0.5), (write_lora(2, rank=5, use_rslora=True), -1.5)]
    out, _ = await merged(*terms)
    report = inspect_adapter(out, lora_base, AdapterLimits(MAX_RANK, 1 << 20)).report
    assert report.ranks == {8: 5}  # of q_proj in layer 0, which both adapt
    assert report.notes == ()
    targets = json.loads((out / CONFIG_FILE).read_text())["target_modules"]
    assert targets == ["embed_tokens", "lm_head", "model.layers.1.self_attn.v_proj", "q_proj"]


async def test_the_same_recipe_makes_the_same_bytes_which_are_those_of_safetensors(
    write_lora: WriteLora, merged: Merge
):
    terms = [(write_lora(1, modules=EVERYWHERE), 0.3), (write_lora(2, dtype=torch.float16), 0.7)]
    for how in ({}, {"compress_to": 3}):
        (one, _), (other, _) = await merged(*terms, **how), await merged(*terms, **how)
        assert Manifest.of(one) == Manifest.of(other)
        tensors = load_file(one / WEIGHTS_FILE)
        assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
        assert (one / WEIGHTS_FILE).read_bytes() == save(tensors, metadata={"format": "pt"})


async def test_what_weighs_nothing_takes_no_rank(write_lora: WriteLora, merged: Merge, changes: Changes):
    kept = write_lora(1)
    out, report = await merged((kept, 1.0), (write_lora(2), 0.0))
    assert report["rank"] == 4
    assert [each["weight"] for each in report["versions"]] == [1.0, 0.0]
    assert distance(changes(out), changes(kept)) < 1e-6


async def test_a_rank_above_the_servers_is_refused_with_two_ways_out(
    write_lora: WriteLora, refusal: Callable[..., Awaitable[str]]
):
    terms = [(write_lora(seed, rank=9), 1.0) for seed in range(2)]
    words = await refusal(*terms)
    assert words.startswith("rank 18, the sum of 9 + 9; at most 16: start the server with --max-lora-rank 32, or ")
    assert "merge with compress_to 16, which changes the merged weights by " in words
    assert "rank 17; at most 16" in await refusal(*terms, compress_to=17)
    words = await refusal(*[(write_lora(seed, rank=10), 1.0) for seed in range(60)])
    assert "--max-lora-rank" not in words  # no engine takes that


async def test_a_cut_is_the_best_of_its_rank_and_tells_what_it_loses(
    write_lora: WriteLora, merged: Merge, changes: Changes
):
    terms = [(write_lora(seed, rank=9), weight) for seed, weight in ((1, 1.0), (2, 0.5))]
    out, report = await merged(*terms, compress_to=10)
    whole = total([(changes(path), weight) for path, weight in terms])
    assert distance(changes(out), whole) == pytest.approx(report["error"], rel=1e-5)
    assert (report["rank_before"], report["rank"], report["compress_to"]) == (18, 10, 10)
    errors = {}
    for module, change in whole.items():
        values = np.linalg.svd(change, compute_uv=False)
        errors[module] = np.linalg.norm(values[10:]) / np.linalg.norm(values)
    worst = max(errors, key=errors.__getitem__)
    assert (report["worst_module"], report["worst_error"]) == (worst, pytest.approx(errors[worst], rel=1e-5))


async def test_what_cancels_out_leaves_no_trace_in_a_cut(write_lora: WriteLora, merged: Merge, changes: Changes):
    sql, json_ = write_lora(1, rank=8), write_lora(2, rank=8)
    out, report = await merged((sql, 1.0), (sql, -1.0), (json_, 1.0), compress_to=8)
    assert report["error"] < 1e-9
    assert distance(changes(out), changes(json_)) < 1e-6


async def test_versions_of_different_ranks_are_merged_by_linear_alone(
    write_lora: WriteLora, refusal: Callable[..., Awaitable[str]]
):
    words = await refusal(
        (write_lora(1, rank=4), 1.0), (write_lora(2, rank=8), 1.0), method=MergeMethod.TIES, density=0.5
    )
    assert "ranks 4, 8" in words
    assert "merge linear" in words


class Layer(nn.Module):
    """The smallest model that PEFT takes."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(32, 24, bias=False)


@pytest.mark.parametrize("method", [MergeMethod.TIES, MergeMethod.DARE_LINEAR, MergeMethod.DARE_TIES])
def test_ties_and_dare_do_what_peft_does(method: MergeMethod, write_lora: WriteLora):
    terms = [
        (write_lora(1, modules=[QUERY], lora_alpha=6), 0.7),
        (write_lora(2, modules=[QUERY], use_rslora=True), -0.4),
    ]
    model = get_peft_model(Layer(), LoraConfig(r=1, target_modules=["q_proj"]))
    for name, (path, _) in zip(("one", "other"), terms, strict=True):
        model.add_adapter(name, LoraConfig(**json.loads((path / CONFIG_FILE).read_text()) | {"task_type": None}))
        stored = load_peft_weights(path, device="cpu")
        set_peft_model_state_dict(
            model, {key.replace(QUERY, "q_proj"): tensor for key, tensor in stored.items()}, adapter_name=name
        )
    adapted = model.base_model.model.q_proj
    combine = model.base_model._generalized_task_arithmetic_weighted_adapter  # add_weighted_adapter draws before it
    torch.manual_seed(5)
    expected = combine(method, ["one", "other"], [0.7, -0.4], adapted, 0.4, "total")
    torch.manual_seed(5)
    made = peft_merge.merge([(StoredLora.open(path), weight) for path, weight in terms], QUERY, method, 0.4)
    np.testing.assert_allclose(made.a, expected[0], rtol=1e-6)
    np.testing.assert_allclose(made.b, expected[1], rtol=1e-6)


async def test_peft_merges_in_a_process_of_its_own(write_lora: WriteLora, merged: Merge, lora_base: BaseModel):
    terms = [(write_lora(seed, modules=EVERYWHERE, dtype=torch.bfloat16), 0.5) for seed in (1, 2)]
    how = {"method": MergeMethod.DARE_TIES, "density": 0.5}
    (one, report), (same, _), (other, _) = await asyncio.gather(
        *(merged(*terms, **how, seed=seed) for seed in (3, 3, 4))
    )
    assert Manifest.of(one) == Manifest.of(same)
    assert Manifest.of(one) != Manifest.of(other)
    assert (report["method"], report["density"], report["seed"], report["rank"]) == ("dare_ties", 0.5, 3, 4)
    assert inspect_adapter(one, lora_base, AdapterLimits(MAX_RANK, 1 << 20)).report.dtypes == (lora_base.dtype,)


def test_a_recipe_is_an_origin_that_can_be_read():
    assert str(recipe_of([0.5, -1.0])) == "merge:linear(sql@1*0.5, sql@2*-1)"
    how = {"method": MergeMethod.DARE_TIES, "density": 0.5, "seed": 0, "compress_to": 8}
    assert str(recipe_of([1e-5], **how)) == "merge:dare_ties(sql@1*1e-05, density=0.5, seed=0, compress_to=8)"
