"""Reads the header of a safetensors file strictly, before any other code reads the file.

The layout (https://github.com/huggingface/safetensors): eight bytes of little-endian length, a JSON object of
tensors, then their data. Every header that passes here is accepted by the safetensors library too, as a
differential test checks. Refused besides: duplicate keys (the library takes the last), unusual tensor names, headers
of unlimited size.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from adapters import strict_json
from adapters.errors import Fault, SafetensorsMalformed
from adapters.storage.mistaken_files import START_BYTES, mistaken_file

DTYPE_BITS: Mapping[str, int] = {
    dtype: bits
    for bits, dtypes in {
        8: "BOOL U8 I8 F8_E5M2 F8_E4M3 F8_E8M0 F8_E4M3FNUZ F8_E5M2FNUZ",
        4: "F4",
        6: "F6_E2M3 F6_E3M2",
        16: "I16 U16 F16 BF16",
        32: "I32 U32 F32",
        64: "I64 U64 F64 C64",
    }.items()
    for dtype in dtypes.split()
}
"""Bits per element of every dtype that the format knows (safetensors 0.8)."""

LENGTH_BYTES = 8
MAX_ELEMENTS = 2**56
"""Above this, the size in bits no longer fits the library's 64-bit arithmetic."""
MAX_NAME_LENGTH = 512
_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_ENTRY_KEYS = {"dtype", "shape", "data_offsets"}
_METADATA = "__metadata__"


@dataclass(frozen=True, slots=True)
class HeaderLimits:
    """The largest header that is read."""

    max_header_bytes: int
    max_tensors: int


ADAPTER_HEADER = HeaderLimits(max_header_bytes=8 << 20, max_tensors=50_000)
"""50 000 tensors at some 150 bytes each: the experts of a large mixture, A and B."""

BASE_HEADER = HeaderLimits(max_header_bytes=100_000_000, max_tensors=1_000_000)
"""The library's own bound on the header; base models come from the operator, not from uploads."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor; ``begin`` and ``end`` are byte offsets from the header's ``data_start``."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Header:
    """The tensors of a file in the order of their bytes; ``data_start`` is where byte 0 of the data lies."""

    tensors: Mapping[str, Tensor]
    data_start: int
    metadata: Mapping[str, str]


def read_header(path: Path, limits: HeaderLimits = ADAPTER_HEADER) -> Header:
    """Read and check the header of ``path``; the data is not read, but the file's length must fit it exactly.

    Raises:
        SafetensorsMalformed: with the first fault found; its ``where`` names the file and the tensor.
        OSError: the file cannot be opened or read.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        raw = _header_bytes(file, size, path.name, limits)
    fields = _fields(raw, path.name)
    metadata = _metadata(fields.pop(_METADATA, {}), path.name)
    if len(fields) > limits.max_tensors:
        raise _malformed(path.name, f"{len(fields)} tensors", f"at most {limits.max_tensors}")
    tensors = sorted(
        (_tensor(name, entry, path.name) for name, entry in fields.items()),
        key=lambda tensor: (tensor.begin, tensor.end),
    )
    data_start = LENGTH_BYTES + len(raw)
    _check_contiguous(tensors, size - data_start, path.name)
    return Header({tensor.name: tensor for tensor in tensors}, data_start, metadata)


def _malformed(where: str, found: str, needed: str) -> SafetensorsMalformed:
    return SafetensorsMalformed(Fault(where, found, needed))


def _header_bytes(file: BinaryIO, size: int, where: str, limits: HeaderLimits) -> bytes:
    if (mistaken := mistaken_file(file.read(START_BYTES))) is not None:
        found, to_do = mistaken
        raise _malformed(where, found, f"a safetensors file: {to_do}")
    file.seek(0)
    if size < LENGTH_BYTES:
        raise _malformed(where, f"a file of {size} bytes", "a safetensors file; send the whole file again")
    length = int.from_bytes(file.read(LENGTH_BYTES), "little")
    if length > limits.max_header_bytes:
        raise _malformed(
            where,
            f"a header of {length} bytes",
            f"a safetensors file with a header of at most {limits.max_header_bytes} bytes",
        )
    raw = file.read(length)
    if len(raw) < length:
        raise _malformed(
            where,
            f"a header of {length} bytes in a file of {size} bytes",
            "the whole file; it was cut off, send it again",
        )
    return raw


def _fields(raw: bytes, where: str) -> dict[str, Any]:
    try:
        fields = strict_json.parse(raw)
    except ValueError as error:
        raise _malformed(where, f"a header that is not JSON ({error})", "a safetensors file") from error
    if not isinstance(fields, dict) or not raw.startswith(b"{"):
        raise _malformed(where, "a header that is not a JSON object", "a safetensors file")
    return fields


def _metadata(value: Any, where: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise _malformed(f"{where}: {_METADATA}", "values that are not text", "an object of text by text")
    return value


def _tensor(name: str, entry: Any, file: str) -> Tensor:
    where = f"{file}: {ascii(name[:MAX_NAME_LENGTH])[1:-1]}"
    if len(name) > MAX_NAME_LENGTH or not _NAME.fullmatch(name):
        raise _malformed(
            where,
            "a tensor name with other characters or too long",
            f"1 to {MAX_NAME_LENGTH} letters, digits, '.', '_' or '-'",
        )
    if not isinstance(entry, dict) or entry.keys() != _ENTRY_KEYS:
        raise _malformed(where, "an entry with other keys", f"exactly {', '.join(sorted(_ENTRY_KEYS))}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise _malformed(where, f"dtype {ascii(dtype)[:40]}", f"one of {', '.join(DTYPE_BITS)}")
    if not _naturals(shape):
        raise _malformed(where, "a shape that is no list of sizes", "whole numbers, 0 or more")
    if not _naturals(offsets) or len(offsets) != 2:
        raise _malformed(where, "data_offsets that are no pair", "[begin, end] in bytes")
    tensor = Tensor(name, dtype, tuple(shape), *offsets)
    _check_size(tensor, where)
    return tensor


def _naturals(value: Any) -> bool:
    # type() and not isinstance: True is an int to Python
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _check_size(tensor: Tensor, where: str) -> None:
    elements = bound = 1
    for size in tensor.shape:
        elements *= size
        bound *= max(size, 1)  # a zero must not hide an overflow that the library's checked product meets
        if bound > MAX_ELEMENTS:
            raise _malformed(where, f"a shape of more than {MAX_ELEMENTS} elements", "the tensor's true shape")
    bits = elements * DTYPE_BITS[tensor.dtype]
    if bits % 8 or tensor.end - tensor.begin != bits // 8:
        raise _malformed(
            where, f"{tensor.end - tensor.begin} bytes for {tensor.dtype} {list(tensor.shape)}", f"{bits / 8:g} bytes"
        )


def _check_contiguous(tensors: list[Tensor], data_bytes: int, file: str) -> None:
    position = 0
    for tensor in tensors:
        if tensor.begin != position:
            kind = "an overlap" if tensor.begin < position else "a gap"
            raise _malformed(
                f"{file}: {tensor.name}", f"{kind}: begins at byte {tensor.begin}", f"begin at byte {position}"
            )
        position = tensor.end
    if position != data_bytes:
        raise _malformed(
            file,
            f"{data_bytes} bytes of data",
            f"{position}, as the header says; the file was cut off or added to, send it again",
        )
