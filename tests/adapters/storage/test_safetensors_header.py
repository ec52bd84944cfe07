"""The header reader: what it reads, and what it refuses; test_header_differential.py holds it to the library."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from adapters.errors import SafetensorsMalformed
from adapters.storage.safetensors_header import ADAPTER_HEADER, HeaderLimits, read_header

ONE = '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'


def framed(header: str | bytes, data: bytes = bytes(8)) -> bytes:
    raw = header if isinstance(header, bytes) else header.encode()
    return len(raw).to_bytes(8, "little") + raw + data


def read(path: Path, content: bytes, limits: HeaderLimits = ADAPTER_HEADER):
    path.write_bytes(content)
    return read_header(path, limits)


def test_reads_what_the_library_wrote(tmp_path):
    path = tmp_path / "w.safetensors"
    arrays = {"x.weight": np.ones((3, 2), np.float16), "y": np.zeros(5, np.float32)}
    save_file(arrays, path, metadata={"format": "np"})
    header = read_header(path)
    assert {name: (t.dtype, t.shape) for name, t in header.tensors.items()} == {
        "x.weight": ("F16", (3, 2)),
        "y": ("F32", (5,)),
    }
    assert header.metadata == {"format": "np"}
    x = header.tensors["x.weight"]
    data = path.read_bytes()[header.data_start + x.begin : header.data_start + x.end]
    assert data == arrays["x.weight"].tobytes()


def test_gives_tensors_in_the_order_of_their_bytes(tmp_path):
    header = '{"z":{"dtype":"U8","shape":[4],"data_offsets":[4,8]},"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}'
    assert list(read(tmp_path / "w", framed(header)).tensors) == ["a", "z"]


MALFORMED = {
    "empty file": (b"", "safetensors file"),
    "seven bytes": (b"1234567", "safetensors file"),
    "length beyond the file": ((1000).to_bytes(8, "little") + b"{}", "cut off"),
    "length beyond the limit": ((1 << 62).to_bytes(8, "little") + b"{}", "at most"),
    "a pickle by another name": (b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00" + bytes(40), "safetensors"),
    "not JSON": (framed("hello"), "safetensors file"),
    "not UTF-8": (framed(b'{"\xff":1}'), "safetensors file"),
    "a list": (framed("[]", b""), "safetensors file"),
    "space before the object": (framed(" " + ONE), "safetensors file"),
    "deep nesting": (framed('{"a":' * 100_000), "safetensors file"),
    "a number too long to read": (framed(ONE.replace("[2]", "[" + "9" * 5000 + "]")), "safetensors file"),
    "key twice": (framed(ONE[:-1] + "," + ONE[1:]), "safetensors file"),
    "inner key twice": (framed(ONE.replace('"shape"', '"dtype":"F32","shape"')), "safetensors file"),
    "NaN": (framed(ONE.replace("[2]", "NaN")), "safetensors file"),
    "half a surrogate in metadata": (framed(r'{"__metadata__":{"a":"\ud800"}}', b""), "safetensors file"),
    "metadata of numbers": (framed('{"__metadata__":{"a":1}}', b""), "object of text"),
    "metadata that is a list": (framed('{"__metadata__":[]}', b""), "object of text"),
    "path as a name": (framed(ONE.replace('"a"', r'"../../x\u0000y"')), "letters"),
    "empty name": (framed(ONE.replace('"a"', '""')), "letters"),
    "name too long": (framed(ONE.replace('"a"', '"' + "a" * 600 + '"')), "letters"),
    "entry that is no object": (framed('{"a":1}'), "exactly"),
    "entry with another key": (framed(ONE.replace('"shape"', '"strides":[1],"shape"')), "exactly"),
    "entry without a shape": (framed(ONE.replace('"shape":[2],', "")), "exactly"),
    "unknown dtype": (framed(ONE.replace("F32", "F33")), "one of BOOL"),
    "dtype that is no text": (framed(ONE.replace('"F32"', "[]")), "one of BOOL"),
    "negative size": (framed(ONE.replace("[2]", "[-2]")), "whole numbers"),
    "minus zero": (framed(ONE.replace("[2]", "[-0]").replace("8]", "0]"), b""), "whole numbers"),
    "fractional size": (framed(ONE.replace("[2]", "[2.0]")), "whole numbers"),
    "true as a size": (framed(ONE.replace("[2]", "[true,2]")), "whole numbers"),
    "shape that is a number": (framed(ONE.replace("[2]", "2")), "whole numbers"),
    "three offsets": (framed(ONE.replace("8]", "8,8]")), "begin, end"),
    "end before begin": (framed(ONE.replace("[0,8]", "[8,0]")), "8 bytes"),
    "overflowing shape": (framed(ONE.replace("[2]", f"[{2**62},{2**62}]")), "true shape"),
    "overflow hidden by a zero": (
        framed(ONE.replace("[2]", f"[{2**62},{2**62},0]").replace("8]", "0]"), b""),
        "true shape",
    ),
    "shape and offsets at odds": (framed(ONE.replace("[2]", "[3]")), "12 bytes"),
    "half a byte": (framed(ONE.replace("F32", "F4").replace("[2]", "[15]")), "7.5 bytes"),
    "gap before the first": (framed(ONE.replace("[0,8]", "[8,16]"), bytes(16)), "begin at byte 0"),
    "overlap": (framed(ONE[:-1] + "," + ONE[1:].replace('"a"', '"b"')), "begin at byte 8"),
    "data cut off": (framed(ONE, bytes(7)), "cut off"),
    "bytes after the data": (framed(ONE, bytes(9)), "added to"),
}


@pytest.mark.parametrize(("content", "needed"), MALFORMED.values(), ids=MALFORMED.keys())
def test_refuses_and_says_what_is_needed(content, needed, tmp_path):
    with pytest.raises(SafetensorsMalformed) as refused:
        read(tmp_path / "w.safetensors", content)
    assert refused.value.fault.where.startswith("w.safetensors")
    assert needed in refused.value.fault.needed


def test_refuses_more_tensors_than_the_limit(tmp_path):
    entries = {f"t{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(4)}
    content = framed(json.dumps(entries), b"")
    assert len(read(tmp_path / "w", content).tensors) == 4
    with pytest.raises(SafetensorsMalformed, match="at most 3"):
        read(tmp_path / "w", content, HeaderLimits(max_header_bytes=10_000, max_tensors=3))


def test_the_message_stays_plain_text_whatever_the_name(tmp_path):
    with pytest.raises(SafetensorsMalformed) as refused:
        read(tmp_path / "w", framed('{"\\u001b[31m\\u202e":1}'))
    assert refused.value.message.isascii()
    assert refused.value.message.isprintable()
