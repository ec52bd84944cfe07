"""Files under the name of an adapter's weights that are something else: one fault, which names the cause."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from adapters.errors import SafetensorsMalformed
from adapters.storage.mistaken_files import START_BYTES, mistaken_file
from adapters.storage.safetensors_header import read_header


def saved_by_torch(*, is_zip: bool) -> bytes:
    file = io.BytesIO()
    torch.save({"lora_A": torch.ones(2, 2)}, file, _use_new_zipfile_serialization=is_zip)
    return file.getvalue()


MISTAKEN = {
    "a git-lfs pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 269280\n",
        "git-lfs",
        "git lfs pull",
    ),
    "a page": (b"<!DOCTYPE html>\n<html><title>Sign in</title></html>", "HTML", "download it again"),
    "a page behind space": (b"\n\n  <html lang='en'>", "HTML", "download it again"),
    "a page with a byte order mark": (b"\xef\xbb\xbf<HTML>", "HTML", "download it again"),
    "an error of a bucket": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "XML", "token"),
    "an error of a hub": (json.dumps({"error": "Repository not found"}).encode(), "JSON text", "download it again"),
    "a hub's answer": (b"Entry not found", "text that begins 'Entry not found'", "download it again"),
    "an answer of several lines": (b"\r\n404\r\n\tno such object\n", "'404'", "download it again"),
    "a text that is cut in a character": ("ü".encode() * 300, "text that begins", "download it again"),
    "an output of PowerShell": ("version https://git-lfs".encode("utf-16"), "UTF-16", "UTF-8"),
    "an error whose ninth byte is a brace": (b'{"code":{"value": 404}}', "JSON text", "download it again"),
    "a file of torch": (saved_by_torch(is_zip=True), "zip archive", "safe_serialization=True"),
    "an old file of torch": (saved_by_torch(is_zip=False), "pickle", "safe_serialization=True"),
    "a pickle": (pickle.dumps({"lora_A": [1.0]}), "pickle", "safe_serialization=True"),
    "a zip of the folder": (b"PK\x03\x04" + bytes(26) + b"adapter_config.json", "zip archive", "unpack"),
    "a gzip archive": (b"\x1f\x8b\x08\x00" + bytes(60), "gzip", "unpack"),
    "a GGUF file": (b"GGUF\x03\x00\x00\x00" + bytes(60), "GGUF", "before it was converted"),
    "zeros": (bytes(4096), "zeros", "download it again"),
}


@pytest.mark.parametrize(("content", "found", "needed"), MISTAKEN.values(), ids=MISTAKEN.keys())
def test_a_file_that_is_another_kind_of_file_is_named(tmp_path: Path, content: bytes, found: str, needed: str) -> None:
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(content)
    with pytest.raises(SafetensorsMalformed) as malformed:
        read_header(path)
    fault = malformed.value.fault
    assert fault.where == path.name
    assert found in fault.found
    assert needed in fault.needed


@given(
    names=st.lists(st.from_regex(r"[A-Za-z0-9_.-]{1,60}", fullmatch=True), max_size=20, unique=True),
    metadata=st.none() | st.dictionaries(st.text(max_size=20), st.text(max_size=20), max_size=3),
)
def test_what_the_library_writes_is_never_mistaken(names: list[str], metadata: dict[str, str] | None) -> None:
    tensors = {name: torch.zeros(1) for name in names}
    assert mistaken_file(save(tensors, metadata)[:START_BYTES]) is None
