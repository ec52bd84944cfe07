"""The results of a batch's lines so far: appended durably, read again after a restart.

Each claim on a batch appends to a file of its own, so that a process that has lost its lease harms no other's results.
A line of a file: the index of the batch's line, 1 if it failed else 0, and the result as JSON.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from adapters.storage.disk import fsync_directory, in_thread, space_needed

_RESULTS_AT_ONCE: Final = 256
"""Results read by one call of a thread."""
_ENTRY: Final = re.compile(rb"(\d+) ([01]) (.+\n)")


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a result is: in bytes of a file, its JSON with the line's end."""

    path: Path
    offset: int
    length: int
    is_failed: bool


@dataclass(slots=True, eq=False)
class ResultLog:
    """The results in ``directory``, by the index of their lines; ``path`` is the file to append to."""

    path: Path
    places: dict[int, _Place]
    _unwritten: list[tuple[int, bool, bytes]] = field(default_factory=list)
    _writing: asyncio.Lock = field(default_factory=asyncio.Lock)

    @classmethod
    async def open(cls, directory: Path, token: int) -> ResultLog:
        """Read the results of the earlier claims on a batch, and begin the file of the claim with this ``token``."""
        places: dict[int, _Place] = {}
        path = directory / f"results-{token:06d}.jsonl"
        await in_thread(_read_places, directory, places)
        await in_thread(_begin, path)
        return cls(path, places)

    def __contains__(self, index: int) -> bool:
        return index in self.places

    @property
    def failed(self) -> int:
        """Number of lines that were answered with an error."""
        return sum(place.is_failed for place in self.places.values())

    @property
    def completed(self) -> int:
        """Number of lines that were answered."""
        return len(self.places) - self.failed

    async def append(self, index: int, result: bytes, *, is_failed: bool) -> None:
        """Append a result, JSON without line breaks; it is on disk when this returns. Results at once share a sync."""
        self._unwritten.append((index, is_failed, result))
        async with self._writing:
            if entries := self._unwritten:  # else the call before wrote this one's result too
                self._unwritten = []
                with space_needed(self.path):
                    self.places |= await in_thread(_write, self.path, entries)

    async def results(self, *, failed: bool) -> AsyncIterator[bytes]:
        """Yield the lines of the output file, or of the error file, in the order of the input."""
        indices = sorted(index for index, place in self.places.items() if place.is_failed == failed)
        for start in range(0, len(indices), _RESULTS_AT_ONCE):
            places = [self.places[index] for index in indices[start : start + _RESULTS_AT_ONCE]]
            yield await in_thread(_read, places)


def _begin(path: Path) -> None:
    with path.open("xb") as file:
        os.fsync(file.fileno())
    fsync_directory(path.parent)


def _write(path: Path, entries: list[tuple[int, bool, bytes]]) -> dict[int, _Place]:
    places: dict[int, _Place] = {}
    with path.open("ab") as file:
        for index, is_failed, result in entries:
            file.write(f"{index} {is_failed:d} ".encode())
            places[index] = _Place(path, file.tell(), len(result) + 1, is_failed)
            file.write(result + b"\n")
        file.flush()
        os.fsync(file.fileno())
    return places


def _read_places(directory: Path, places: dict[int, _Place]) -> None:
    """Add the results of all files in ``directory``. Of two results of a line, the earlier claim's counts."""
    for path in sorted(directory.glob("results-*.jsonl")):
        with path.open("rb") as file:
            offset = 0
            for content in file:
                if (entry := _ENTRY.fullmatch(content)) is None:  # a crash cut it off: it was never counted
                    break
                place = _Place(path, offset + entry.start(3), len(entry[3]), entry[2] == b"1")
                places.setdefault(int(entry[1]), place)
                offset += len(content)


def _read(places: list[_Place]) -> bytes:
    content = bytearray()
    with ExitStack() as opened:
        files = {path: opened.enter_context(path.open("rb")) for path in {place.path for place in places}}
        for place in places:
            files[place.path].seek(place.offset)
            content += files[place.path].read(place.length)
    return bytes(content)
