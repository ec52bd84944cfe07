"""Our header reader beside the safetensors library's: what we accept, it accepts, and reads the same in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import safetensors
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from adapters.errors import SafetensorsMalformed
from adapters.storage.safetensors_header import DTYPE_BITS, read_header

METADATA = "__metadata__"
fuzzed = settings(max_examples=500, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def framed(header: bytes, data: bytes, *, longer: int = 0) -> bytes:
    return max(0, len(header) + longer).to_bytes(8, "little") + header + data


Items = list[tuple[str, Any]]
"""The items of a header's object; a list, so that a name may be there twice."""
Edit = Callable[[st.DrawFn, Items], Items]


def told_apart(length: int) -> bytes:
    """Data in which no two places look alike, so that bytes tell the offsets that they were read at."""
    return b"".join(number.to_bytes(2, "big") for number in range(length // 2 + 1))[:length]


def entry(dtype: str, shape: list[int], begin: int) -> dict[str, Any]:
    length = DTYPE_BITS[dtype]
    for size in shape:
        length *= size
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, begin + length // 8]}


@st.composite
def good_files(draw: st.DrawFn) -> tuple[Items, int]:
    """The items of a header, in any order, and the length of the data."""
    names = st.lists(st.from_regex(r"[a-z]{1,3}(\.[0-9a-z_-]{1,4}){0,2}", fullmatch=True), max_size=4, unique=True)
    items: Items = []
    position = 0
    for name in draw(names):
        dtype = draw(st.sampled_from(sorted(DTYPE_BITS)))
        sizes = st.sampled_from([0, 2, 4, 8] if DTYPE_BITS[dtype] < 8 else [0, 1, 2, 3, 7])
        least = 3 if DTYPE_BITS[dtype] < 8 else 0  # three even sizes fill whole bytes
        made = entry(dtype, draw(st.lists(sizes, min_size=least, max_size=3)), position)
        items.append((name, made))
        position = made["data_offsets"][1]
    if draw(st.booleans()):
        items.append((METADATA, draw(st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=3))))
    return draw(st.permutations(items)), position


SMALL = ["0", "1", "8", "16", "-0", "-1", "+1", "01", "8.0", "8e0", "1E1", "0x8", "1_0", "NaN", "Infinity", "1e999"]
numbers = st.sampled_from(
    [*SMALL, "null", "true", '"8"', "[8]", *(str(2**bits) for bits in (31, 32, 56, 63, 64)), str(2**64 + 8), "9" * 5000]
)
SIGNS = [*',:{}[]"\\', r"\u0000", r"\ud800", r"\ud83d\ude00", r"\u0061", r"\x61", r"\/", "/**/", r"\u00e9"]
SPACES = [" ", "\n", "\t", "\r", "\f", "\v", "\0", "\x1f", "\x7f", "\u00a0", "\u2028", "\ufeff", "é", "😀"]
snippets = st.sampled_from([*SIGNS, *SPACES])
raw_snippets = st.sampled_from([b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\x80", b"\xf4\x90\x80\x80"])


@st.composite
def spoilt_files(draw: st.DrawFn) -> bytes:
    """A good file after some edits of its items, its text and its bytes; or after none."""
    items, length = draw(good_files())
    for edit in draw(st.lists(st.sampled_from(EDITS), max_size=2)):
        items = edit(draw, list(items))
    separators = draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t:\r")]))
    text = "{" + separators[0].join(f"{json.dumps(k)}{separators[1]}{written(v)}" for k, v in items) + "}"
    text = draw(st.sampled_from(["", "", "", "", " ", "\n", "\ufeff"])) + text
    text += draw(st.sampled_from(["", "", "", "   ", "\n", "{}", "\0", "x", "\u00a0"]))
    header = text.encode()
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        place = draw(st.integers(0, len(header)))
        piece = draw(st.one_of(snippets.map(str.encode), numbers.map(str.encode), raw_snippets))
        header = header[:place] + piece + header[place + draw(st.integers(0, 2)) :]
    data = told_apart(max(0, length + draw(st.sampled_from([0] * 8 + [1, -1, 8]))))
    whole = framed(header, data, longer=draw(st.sampled_from([0] * 12 + [1, -1, 8, -8])))
    return whole[: draw(st.integers(0, len(whole)))] if draw(st.integers(0, 15)) == 0 else whole


def written(value: object) -> str:
    """``value`` as JSON; a ``Raw`` as it stands, and a list of pairs as an object that may repeat a key."""
    if isinstance(value, Raw):
        return value
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(key)}:{written(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(written, value)) + "]"
    if isinstance(value, tuple):
        return "{" + ",".join(f"{json.dumps(key)}:{written(inner)}" for key, inner in value) + "}"
    return json.dumps(value)


class Raw(str):
    """Text that goes into the header unquoted."""

    __slots__ = ()


def some(draw: st.DrawFn, items: Items) -> int | None:
    """The place of a tensor's item that no edit has changed yet, or None."""
    places = [place for place, (_, value) in enumerate(items) if is_whole(value)]
    return draw(st.sampled_from(places)) if places else None


def is_whole(value: object) -> bool:
    if not isinstance(value, dict) or {*value} != {"dtype", "shape", "data_offsets"}:
        return False
    shape, offsets = value["shape"], value["data_offsets"]
    is_list = isinstance(shape, list) and len(offsets) == 2
    return is_list and all(type(number) is int for number in (*shape, *offsets))


def changed(field: str, values: Callable[[dict[str, Any]], st.SearchStrategy[Any]]) -> Edit:
    def edit(draw: st.DrawFn, items: Items) -> Items:
        place = some(draw, items)
        if place is not None:
            name, value = items[place]
            items[place] = (name, {**value, field: draw(values(value))})
        return items

    return edit


def twice(draw: st.DrawFn, items: Items) -> Items:
    return [*items, draw(st.sampled_from(items))] if items else items


def inner_twice(draw: st.DrawFn, items: Items) -> Items:
    if (place := some(draw, items)) is not None:
        name, value = items[place]
        pairs = tuple(value.items())
        items[place] = (name, (*pairs, draw(st.sampled_from(pairs))))
    return items


def renamed(draw: st.DrawFn, items: Items) -> Items:
    if items:
        _, value = items.pop()
        items.append((draw(st.one_of(st.text(max_size=4), st.just(METADATA), st.just("a" * 600))), value))
    return items


def dropped(draw: st.DrawFn, items: Items) -> Items:
    if (place := some(draw, items)) is not None:
        if draw(st.booleans()):
            del items[place]
        else:
            name, value = items[place]
            items[place] = (name, dict(list(value.items())[:2]))
    return items


def odd_metadata(draw: st.DrawFn, items: Items) -> Items:
    odd = [None, [], {}, {"a": 1}, {"a": None}, {"a": {"b": "c"}}, "text", Raw('{"a":"\\ud800"}'), {"\0": "\0"}]
    return [*items, (METADATA, draw(st.sampled_from(odd)))]


def resized(value: dict[str, Any]) -> st.SearchStrategy[list[Any]]:
    places = st.integers(0, max(0, len(value["shape"]) - 1))
    return st.tuples(places, numbers).map(
        lambda change: [*value["shape"][: change[0]], Raw(change[1]), *value["shape"][change[0] + 1 :]]
    )


def moved(value: dict[str, Any]) -> st.SearchStrategy[list[Any]]:
    begin, end = value["data_offsets"]
    steps = st.sampled_from([-8, -1, 0, 0, 1, 8])
    pairs = st.tuples(steps, steps).map(lambda by: [begin + by[0], end + by[1]])
    return st.one_of(pairs, numbers.map(lambda number: [begin, Raw(number)]), st.just([begin, end, end]), st.just([]))


EDITS = [
    changed("shape", resized),
    changed("shape", lambda value: st.permutations(value["shape"])),
    changed(
        "shape", lambda value: st.sampled_from([[], [0], [2**62, 4], [2**62, 4, 0], [0, 2**62, 4], {}, None, "[2]"])
    ),
    changed("data_offsets", moved),
    changed(
        "dtype", lambda value: st.sampled_from([*DTYPE_BITS, "f32", "F8", "", "F32 ", "I4", None, 1, {"F4": None}])
    ),
    changed("more", lambda value: st.sampled_from([None, 0, {}])),
    twice,
    inner_twice,
    renamed,
    dropped,
    odd_metadata,
]


@st.composite
def bytes_replaced(draw: st.DrawFn) -> bytes:
    """A good file with some of its bytes replaced, in its length, its header and its data."""
    items, length = draw(good_files())
    header = "{" + ",".join(f"{json.dumps(name)}:{written(value)}" for name, value in items) + "}"
    content = bytearray(framed(header.encode(), told_apart(length)))
    for place in draw(st.lists(st.integers(0, min(len(content), 400) - 1), max_size=3)):
        content[place] = draw(
            st.one_of(st.sampled_from(list(b'0129-+.eEx,:"[]{}\\u \t\x00\x7f\xff')), st.integers(0, 255))
        )
    return bytes(content)


TRAPS = {
    "minus zero": b'{"a":{"dtype":"F32","shape":[-0],"data_offsets":[0,0]}}',
    "an escaped name": b'{"\\u0061":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}',
    "one name in two spellings": b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},'
    b'"\\u0061":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}',
    "a number as an exponent": b'{"a":{"dtype":"U8","shape":[0e0],"data_offsets":[0,0]}}',
    "zeros after": b"{}\0\0\0\0",
    "metadata that is null": b'{"__metadata__":null}',
    "no tensors": b"{}",
    "nothing": b"",
}


@fuzzed
@given(st.one_of(spoilt_files(), bytes_replaced()))
@example(framed(TRAPS["minus zero"], b""))
@example(framed(TRAPS["an escaped name"], b""))
@example(framed(TRAPS["one name in two spellings"], b""))
@example(framed(TRAPS["a number as an exponent"], b""))
@example(framed(TRAPS["zeros after"], b""))
@example(framed(TRAPS["metadata that is null"], b""))
@example(framed(TRAPS["no tensors"], b""))
@example(framed(TRAPS["nothing"], b""))
def test_what_we_accept_the_library_accepts_and_reads_as_we_do(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "differential.safetensors"
    path.write_bytes(content)
    try:
        header = read_header(path)
    except SafetensorsMalformed:
        return
    theirs = dict(safetensors.deserialize(content))
    assert theirs.keys() == header.tensors.keys()
    for name, tensor in header.tensors.items():
        assert (theirs[name]["dtype"], tuple(theirs[name]["shape"])) == (tensor.dtype, tensor.shape)
        assert theirs[name]["data"] == content[header.data_start + tensor.begin : header.data_start + tensor.end]
    with safetensors.safe_open(path, framework="np") as file:
        assert (file.metadata() or {}) == header.metadata
