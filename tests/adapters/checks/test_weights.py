"""The scan of the numbers, in each dtype, at the edges of chunks."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from adapters.checks.weights import CHUNK_BYTES, MAX_MAGNITUDE, WeightScan, scan
from adapters.errors import SafetensorsMalformed
from adapters.storage.safetensors_header import read_header

Scanned = Callable[[dict[str, torch.Tensor]], WeightScan]

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture
def scanned(tmp_path: Path) -> Scanned:
    def save_and_scan(tensors: dict[str, torch.Tensor]) -> WeightScan:
        path = tmp_path / "adapter_model.safetensors"
        save_file(tensors, path)
        return scan(path, read_header(path))

    return save_and_scan


@pytest.mark.parametrize("dtype", DTYPES)
def test_finds_the_largest_magnitude_of_all_tensors(dtype: torch.dtype, scanned: Scanned) -> None:
    found = scanned({"a": torch.tensor([0.5, -3.5], dtype=dtype), "b": torch.tensor([[1.0]], dtype=dtype)})
    assert found.max_abs == 3.5
    assert found.faults == ()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("number", "name"), [(math.nan, "NaN"), (math.inf, "infinity")])
def test_finds_what_is_not_finite_and_names_the_first_tensor(
    dtype: torch.dtype, sign: int, number: float, name: str, scanned: Scanned
) -> None:
    good, bad = torch.ones(8, dtype=dtype), torch.ones(8, dtype=dtype)
    bad[5] = sign * number
    found = scanned({"a": good, "b": bad, "c": bad.clone()})
    assert [(fault.where, fault.found) for fault in found.faults] == [("adapter_model.safetensors: b", name)]
    assert found.max_abs == 1.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_refuses_a_magnitude_that_float16_cannot_hold(dtype: torch.dtype, scanned: Scanned) -> None:
    [fault] = scanned({"a": torch.tensor([1e30, 1.0], dtype=dtype)}).faults
    assert "1e+30" in fault.found
    assert "65504" in fault.needed


def test_admits_the_largest_float16(scanned: Scanned) -> None:
    found = scanned({"a": torch.tensor([-MAX_MAGNITUDE], dtype=torch.float16)})
    assert found.faults == ()
    assert found.max_abs == MAX_MAGNITUDE


def test_tells_each_kind_of_fault_once(scanned: Scanned) -> None:
    numbers = {"a": math.nan, "b": math.inf, "c": 1e9, "d": math.nan}
    found = scanned({name: torch.tensor([number]) for name, number in numbers.items()})
    assert [fault.where[-1] for fault in found.faults] == ["a", "b", "c"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_names_the_tensors_that_hold_only_zeros(dtype: torch.dtype, scanned: Scanned) -> None:
    tensors = {"zero": torch.tensor([0.0, -0.0]), "tiny": torch.tensor([0.0, 6e-8]), "none": torch.empty(0)}
    found = scanned({name: tensor.to(dtype) for name, tensor in tensors.items()})
    assert found.zero == {"zero", "none"}


def test_passes_over_numbers_that_no_adapter_is_made_of(scanned: Scanned) -> None:
    found = scanned({"a": torch.full((4,), 127, dtype=torch.int8), "b": torch.ones(2)})
    assert (found.max_abs, found.faults) == (1.0, ())


def test_sees_the_last_number_of_a_tensor_longer_than_a_chunk_and_stays_small(scanned: Scanned) -> None:
    tensor = torch.zeros(CHUNK_BYTES // 4 * 2 + 1)
    tensor[-1] = math.nan
    tracemalloc.start()
    [fault] = scanned({"a": tensor}).faults
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert fault.found == "NaN"
    assert peak < 2.5 * CHUNK_BYTES


def test_refuses_a_file_that_shrank_after_its_header_was_read(tmp_path: Path) -> None:
    path = tmp_path / "adapter_model.safetensors"
    save_file({"a": torch.ones(100)}, path)
    header = read_header(path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 40)
    with pytest.raises(SafetensorsMalformed, match="shrank"):
        scan(path, header)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1), st.sampled_from(DTYPES))
def test_agrees_with_torch_on_any_finite_numbers(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[float], dtype: torch.dtype
) -> None:
    tensor = torch.tensor(numbers).to(dtype)
    path = tmp_path_factory.getbasetemp() / "numbers.safetensors"
    save_file({"a": tensor}, path)
    found = scan(path, read_header(path))
    largest = tensor.abs().max().item()
    if largest <= MAX_MAGNITUDE:
        assert np.float32(found.max_abs) == np.float32(largest)
        assert found.faults == ()
    else:
        assert len(found.faults) == 1
