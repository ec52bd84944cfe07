"""Scans every number of an adapter's file, a chunk at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from adapters.errors import AdapterRefused, Fault, SafetensorsMalformed
from adapters.lora.factors import Factors
from adapters.storage.manifest import WEIGHTS_FILE
from adapters.storage.number_formats import WEIGHT_DTYPES, decode
from adapters.storage.safetensors_header import DTYPE_BITS, Header, Tensor

CHUNK_BYTES = 16 << 20
MAX_MAGNITUDE = 65_504.0
"""The largest number of float16. Trained weights stay below 10; beyond this the engine's sums overflow, and
one overflow is enough to damage the answers of every other request in the batch."""

_Bits = np.ndarray[Any, np.dtype[np.unsignedinteger[Any]]]


@dataclass(frozen=True, slots=True)
class WeightScan:
    """The result of a scan; ``zero`` names the tensors in which every number is 0."""

    max_abs: float
    zero: frozenset[str]
    faults: tuple[Fault, ...]


def scan(path: Path, header: Header) -> WeightScan:
    """Read every tensor of ``WEIGHT_DTYPES`` in ``path``; skip others.

    A kind of fault (NaN, infinity, a magnitude above ``MAX_MAGNITUDE``) is reported once, at the first tensor
    that shows it. Holds at most ``CHUNK_BYTES`` of the file in memory.

    Raises:
        SafetensorsMalformed: the file is shorter than ``header`` says.
        OSError: the file cannot be opened or read.
    """
    max_abs = 0.0
    zero: set[str] = set()
    faults: dict[str, Fault] = {}
    with path.open("rb") as file:
        for tensor in header.tensors.values():
            if tensor.dtype not in WEIGHT_DTYPES:
                continue
            magnitude = _magnitude(file, header.data_start, tensor)
            if magnitude == 0:
                zero.add(tensor.name)
            if (fault := _fault(path.name, tensor, magnitude)) is not None:
                faults.setdefault(fault.needed, fault)
            elif magnitude > max_abs:
                max_abs = magnitude
    return WeightScan(max_abs, frozenset(zero), tuple(faults.values()))


def check_magnitude(module: str, factors: Factors) -> None:
    """Check the ``factors`` of ``module`` that hold its scale.

    Raises:
        AdapterRefused: a magnitude above ``MAX_MAGNITUDE``.
    """
    if not factors.max_abs <= MAX_MAGNITUDE:
        raise AdapterRefused([_too_large(f"{WEIGHTS_FILE}: {module}", factors.max_abs, " with its scale")])


def _magnitude(file: BinaryIO, data_start: int, tensor: Tensor) -> float:
    """Return the largest absolute value: NaN if there is one, 0 for a tensor without elements."""
    # With the sign cleared, IEEE numbers are ordered as their bits are: finite < infinity < NaN.
    largest = max((int(bits.max()) for bits in _magnitudes(file, data_start, tensor)), default=0)
    [magnitude] = decode(largest.to_bytes(DTYPE_BITS[tensor.dtype] // 8, "little"), tensor.dtype)
    return float(magnitude)


def _magnitudes(file: BinaryIO, data_start: int, tensor: Tensor) -> Iterator[_Bits]:
    """Yield the bits of the tensor's numbers, their signs cleared, a chunk at a time."""
    dtype: np.dtype[np.unsignedinteger[Any]] = np.dtype(f"<u{DTYPE_BITS[tensor.dtype] // 8}")
    sign_cleared = 2 ** (DTYPE_BITS[tensor.dtype] - 1) - 1
    file.seek(data_start + tensor.begin)
    left = tensor.end - tensor.begin
    while left:
        count = min(left, CHUNK_BYTES) // dtype.itemsize
        bits = np.fromfile(file, dtype=dtype, count=count)
        if len(bits) < count:
            raise SafetensorsMalformed(
                Fault(f"{WEIGHTS_FILE}: {tensor.name}", "a file that shrank while it was read", "the whole file")
            )
        np.bitwise_and(bits, sign_cleared, out=bits)
        yield bits
        left -= bits.nbytes


def _fault(file: str, tensor: Tensor, magnitude: float) -> Fault | None:
    where = f"{file}: {tensor.name}"
    if np.isnan(magnitude):
        return Fault(where, "NaN", "numbers: train again with a lower learning rate or in another precision")
    if np.isinf(magnitude):
        return Fault(where, "infinity", "finite numbers: train again, this run diverged")
    return _too_large(where, magnitude) if magnitude > MAX_MAGNITUDE else None


def _too_large(where: str, magnitude: float, cause: str = "") -> Fault:
    needed = f"at most {MAX_MAGNITUDE:g}, more would overflow in the engine: train again, this run diverged"
    return Fault(where, f"a weight of magnitude {magnitude:.3g}{cause}", needed)
