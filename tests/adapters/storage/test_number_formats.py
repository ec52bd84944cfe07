from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adapters.storage.number_formats import decode, encode, rounded

TORCH = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@pytest.mark.parametrize("dtype", TORCH)
@given(numbers=st.lists(st.floats(width=32, allow_nan=False), min_size=1))
def test_numbers_are_rounded_as_torch_rounds_them(dtype: str, numbers: list[float]):
    array = np.array(numbers, np.float32)
    as_torch = torch.tensor(numbers, dtype=torch.float32).to(TORCH[dtype])
    assert encode(array, dtype) == as_torch.view(torch.uint8).numpy().tobytes()
    assert rounded(array, dtype).tolist() == as_torch.float().tolist()


@pytest.mark.parametrize("dtype", TORCH)
def test_what_was_stored_is_read_exactly(dtype: str):
    bits = np.arange(2**16, dtype=np.uint16)
    data = (bits.astype(np.uint32) << 16 if dtype == "F32" else bits).tobytes()
    np.testing.assert_array_equal(decode(data, dtype), torch.frombuffer(bytearray(data), dtype=TORCH[dtype]).float())
