"""The parsers that are fuzzed, each with what must hold for any bytes. Another error than the parser's is a finding."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from safetensors import safe_open
from starlette.types import Message

from adapters.errors import AdapterRefused, InvalidName, SafetensorsMalformed
from adapters.lora.peft_config import PeftConfig
from adapters.names import parse_reference
from adapters.storage.safetensors_header import read_header
from server.http.download import Download

FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-"))
SIZE = 1000

Target = Callable[[bytes], None]


def header(content: bytes) -> None:
    """A header that we accept is accepted by the safetensors library; the first byte is the size of its data."""
    data, text = content[:1], content[1:]
    path = FOLDER / "header.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(int.from_bytes(data, "little")))
    try:
        found = read_header(path)
    except SafetensorsMalformed:
        return
    with safe_open(path, framework="numpy") as library:
        assert set(library.keys()) == set(found.tensors)


def config(content: bytes) -> None:
    """A config is refused, or each of its fields can be read."""
    try:
        parsed = PeftConfig.parse(content)
    except AdapterRefused:
        return
    list(parsed.unservable())
    assert isinstance(parsed.ignored, tuple)


def reference(content: bytes) -> None:
    """A reference that is accepted reads back as itself."""
    try:
        parsed = parse_reference(content.decode(errors="surrogateescape"))
    except InvalidName:
        return
    assert parse_reference(str(parsed)) == parsed


def byte_range(content: bytes) -> None:
    """A download with any Range header ends with a status of the protocol, and sends as many bytes as it says."""
    path = FOLDER / "file"
    if not path.exists():
        path.write_bytes(bytes(SIZE))
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    scope = {"type": "http", "method": "GET", "headers": [(b"range", b"bytes=" + content)], "extensions": {}}
    asyncio.run(Download(path)(scope, receive, send))
    start, *bodies = sent
    headers = {name.lower(): value for name, value in start["headers"]}
    assert start["status"] in {200, 206, 400, 416}
    assert int(headers[b"content-length"]) == sum(len(body.get("body", b"")) for body in bodies)


TARGETS: Mapping[str, Target] = {"header": header, "config": config, "reference": reference, "range": byte_range}
SEEDS: Mapping[str, Sequence[bytes]] = {
    "header": [
        b'\x10{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"__metadata__":{"format":"pt"}}',
        b'\x04{"a.b":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]},"c":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}}',
    ],
    "config": [
        b'{"peft_type":"LORA","r":8,"lora_alpha":16,"target_modules":["q_proj"],"rank_pattern":{"q":4}}',
        b'{"peft_type":"LORA","r":8,"lora_alpha":16,"target_modules":"all-linear","use_dora":true,"bias":"all"}',
    ],
    "reference": [b"ft:base:org:suffix:job:ckpt-step-3", b"sql", b"sql@7", b"sql@stable"],
    "range": [b"0-99,200-", b"-5", b"5-"],
}
