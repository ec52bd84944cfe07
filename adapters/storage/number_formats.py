"""Tensor data of safetensors files as float32 arrays, and back. numpy has no bfloat16, so its bits are shifted here."""

from collections.abc import Mapping
from typing import Any

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float32]]
Numbers = np.ndarray[Any, np.dtype[np.floating[Any]]]

_STORED: Mapping[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}
WEIGHT_DTYPES = frozenset(_STORED)
"""The number formats that an adapter's tensors may have."""


def decode(data: bytes, dtype: str) -> Floats:
    """Return the numbers that ``data`` holds in ``dtype`` (one of ``WEIGHT_DTYPES``), exactly."""
    stored = np.frombuffer(data, _STORED[dtype])
    if dtype == "BF16":
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float32)


def rounded(numbers: Numbers, dtype: str) -> Floats:
    """Return ``numbers`` as ``dtype`` holds them."""
    return decode(encode(numbers, dtype), dtype).reshape(numbers.shape)


def encode(numbers: Numbers, dtype: str) -> bytes:
    """Return ``numbers`` in ``dtype``, row by row: rounded to the nearest, ties to even, infinity beyond its range."""
    if dtype == "BF16":
        bits = np.ascontiguousarray(numbers, np.float32).view(np.uint32)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(_STORED[dtype]).tobytes()
    with np.errstate(over="ignore"):
        return numbers.astype(_STORED[dtype]).tobytes()
