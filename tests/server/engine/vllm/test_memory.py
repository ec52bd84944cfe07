"""Slots, KV cache and context are sized from the memory that is free, where no flag sets them."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest

from adapters.base_model import BaseModel
from server.engine.protocol import StartRefused
from server.engine.vllm import memory
from server.engine.vllm.flags import parse_flags
from server.engine.vllm.memory import BaseSizes, choose_sizes
from server.memory_limit import free_memory, memory_limit
from server.slot_plan import SLOTS

GB = 10**9
MB = 2**20
HIDDEN, LAYERS, WORDS, CONTEXT = 1024, 28, 50_000, 40_960
KV_BYTES = 2 * LAYERS * HIDDEN * 2
"""Of a token: keys and values of all layers, two bytes a number."""


@pytest.fixture
def sizes(tmp_path: Path) -> BaseSizes:
    """A base model of 1.2 GB whose longest request takes 4.7 GB of KV cache."""
    config = {
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 16,
        "vocab_size": WORDS,
        "max_position_embeddings": CONTEXT,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    modules = {
        f"model.layers.{layer}.mlp.{name}": shape
        for layer in range(LAYERS)
        for name, shape in (("up_proj", (9 * HIDDEN, HIDDEN)), ("down_proj", (HIDDEN, 9 * HIDDEN)))
    }
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(12 * GB // 10)
    return BaseSizes.of(BaseModel.from_shapes("base", config, modules), tmp_path)


def chosen(monkeypatch: pytest.MonkeyPatch, sizes: BaseSizes, free: float, *flags: str) -> Namespace:
    """The arguments that vLLM is started with where ``free`` bytes of a CPU's memory are free."""
    monkeypatch.setattr(memory, "free_memory", lambda: int(free))
    monkeypatch.setattr(memory, "_free_for_vllm", lambda: 10**15)
    args = parse_flags("org/model", flags, capacity=64)
    choose_sizes(args, sizes)
    return args


@pytest.mark.parametrize("free", [6, 8, 16, 64, 500])
def test_the_kv_cache_leaves_half_of_what_is_free_beside_weights_and_slots(
    monkeypatch: pytest.MonkeyPatch, sizes: BaseSizes, free: float
) -> None:
    args = chosen(monkeypatch, sizes, free * GB)
    rest = free * GB - sizes.weights - memory.WORKSPACE
    assert 0.35 * rest < args.kv_cache_memory_bytes <= 0.8 * rest
    assert args.kv_cache_memory_bytes % MB == 0


def test_a_request_of_full_length_fits_where_it_can(monkeypatch: pytest.MonkeyPatch, sizes: BaseSizes) -> None:
    assert sizes.longest_request == CONTEXT * KV_BYTES
    args = chosen(monkeypatch, sizes, 10 * GB)
    assert sizes.longest_request - MB <= args.kv_cache_memory_bytes <= sizes.longest_request


def test_the_context_is_as_long_as_the_kv_cache_allows_unless_it_is_set(
    monkeypatch: pytest.MonkeyPatch, sizes: BaseSizes
) -> None:
    assert chosen(monkeypatch, sizes, 5 * GB).max_model_len == -1
    assert chosen(monkeypatch, sizes, 5 * GB, "--max-model-len", "2048").max_model_len == 2048


def test_little_memory_means_fewer_slots(monkeypatch: pytest.MonkeyPatch, sizes: BaseSizes) -> None:
    assert chosen(monkeypatch, sizes, 64 * GB).max_loras == SLOTS
    few = chosen(monkeypatch, sizes, 5 * GB, "--max-lora-rank", "256").max_loras
    assert 1 <= few < SLOTS
    assert chosen(monkeypatch, sizes, 5 * GB, "--max-lora-rank", "256", "--max-loras", "8").max_loras == 8


@pytest.mark.parametrize(
    ("flags", "name", "value"),
    [
        (("--kv-cache-memory-bytes", "1000000000"), "kv_cache_memory_bytes", GB),
        (("--kv-cache-memory-bytes", "1G"), "kv_cache_memory_bytes", 2**30),
        (("--gpu-memory-utilization", "0.5"), "kv_cache_memory_bytes", None),
        (("--gpu-memory-utilization", "0.92"), "gpu_memory_utilization", 0.92),
    ],
)
def test_what_the_operator_sets_stays(
    monkeypatch: pytest.MonkeyPatch, sizes: BaseSizes, flags: tuple[str, ...], name: str, value: object
) -> None:
    args = chosen(monkeypatch, sizes, 1 * GB, *flags)
    assert getattr(args, name) == value
    assert "--gpu-memory-utilization" not in flags or args.kv_cache_memory_bytes is None


def test_a_base_that_does_not_fit_is_refused_with_both_sizes_and_a_way_out(
    monkeypatch: pytest.MonkeyPatch, sizes: BaseSizes
) -> None:
    with pytest.raises(StartRefused, match=r"1\.2 GB and 0\.5 GB of memory are free: .* --kv-cache-memory-bytes"):
        chosen(monkeypatch, sizes, GB / 2)
    assert chosen(monkeypatch, sizes, GB / 2, "--load-format", "dummy").kv_cache_memory_bytes == memory.LEAST_KV


def test_a_config_without_the_numbers_is_sized_by_its_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "other"}')
    (tmp_path / "pytorch_model.bin").write_bytes(b"0" * 1000)
    sizes = BaseSizes.of(BaseModel.from_shapes("base", {"model_type": "other"}, {"a": (2, 2)}), tmp_path)
    assert (sizes.weights, sizes.shapes, sizes.longest_request) == (1000, None, 0)
    assert chosen(monkeypatch, sizes, 8 * GB).max_loras == SLOTS


class Gpu:
    """A machine with two GPUs, the second of which is in use by others."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *free: float) -> None:
        platform = SimpleNamespace(
            is_cpu=lambda: False,
            is_cuda=lambda: True,
            device_count=lambda: len(free),
            visible_device_id_to_physical_device_id=lambda number: number,
        )
        nvml = SimpleNamespace(
            NVMLError=OSError,
            nvmlInit=lambda: None,
            nvmlShutdown=lambda: None,
            nvmlDeviceGetHandleByIndex=lambda index: index,
            nvmlDeviceGetMemoryInfo=lambda index: SimpleNamespace(free=int(free[index] * GB), total=80 * GB),
        )
        monkeypatch.setattr("vllm.platforms.current_platform", platform)
        monkeypatch.setattr("vllm.utils.import_utils.import_pynvml", lambda: nvml)


@pytest.mark.parametrize(
    ("free", "share"), [((79,), 0.92), ((40,), 0.48), ((5,), 0.04), ((1,), 0.01), ((79, 40), 0.92)]
)
def test_on_a_gpu_vllm_gets_the_share_that_is_free(
    monkeypatch: pytest.MonkeyPatch, sizes: BaseSizes, free: tuple[float, ...], share: float
) -> None:
    args = parse_flags("org/model", (), capacity=64)
    Gpu(monkeypatch, *free)
    choose_sizes(args, sizes)
    assert (args.gpu_memory_utilization, args.kv_cache_memory_bytes) == (share, None)


def test_the_fullest_gpu_of_several_counts(monkeypatch: pytest.MonkeyPatch, sizes: BaseSizes) -> None:
    args = parse_flags("org/model", ("--tensor-parallel-size", "2"), capacity=64)
    Gpu(monkeypatch, 79, 40)
    choose_sizes(args, sizes)
    assert args.gpu_memory_utilization == 0.48


def test_free_memory_is_less_than_all_of_it() -> None:
    assert 0 < free_memory() < memory_limit()
