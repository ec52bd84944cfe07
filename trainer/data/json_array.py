"""Splits a JSON array into the bytes of its elements, in memory that does not grow with the array."""

import re
from collections.abc import Iterator
from typing import BinaryIO, Final

_BLOCK: Final = 2**16
_SHOWN_BYTES: Final = 40
_OUTSIDE: Final = re.compile(rb'["{}\[\],]')
_IN_STRING: Final = re.compile(rb'\\.|"', re.DOTALL)


class ArrayCut(Exception):
    """The array does not end, or more than white space follows its end; ``found`` says which."""

    def __init__(self, found: str) -> None:
        super().__init__(found)
        self.found = found


def elements(file: BinaryIO, most_bytes: int, end_of_file: bytes = b"") -> Iterator[tuple[bytes, int]]:
    """Yield the bytes and the size of each element of the array that begins at the file's position, or behind spaces.

    The elements are not parsed: a broken one is yielded as it is. One of more than ``most_bytes`` is yielded as b"".
    Behind the array stands ``end_of_file``, and maybe spaces.

    Raises:
        ArrayCut: after the last element.
    """
    while file.read(1).isspace():
        pass  # the byte that is no space is the bracket
    nesting = _Nesting()
    parts: list[bytes] = []
    size = 0
    while block := file.read(_BLOCK):
        start = 0
        for end in nesting.ends(block):
            raw = b"".join([*parts, block[start:end]]).strip()
            size += end - start
            if raw or size > most_bytes or nesting.depth:  # a comma may stand behind the last element
                yield (raw if size <= most_bytes else b""), size
            parts, size, start = [], 0, end + 1
        if not nesting.depth:
            if (rest := (block[start:] + file.read(_BLOCK)).strip()) != end_of_file:
                behind = rest[:_SHOWN_BYTES].decode(errors="backslashreplace")
                raise ArrayCut(f"{behind!a} behind the end of the array")
            return
        size += len(block) - start
        parts = [*parts, block[start:]] if size <= most_bytes else []
    raise ArrayCut("the end of the file inside the array")


class _Nesting:
    """Where the bytes read so far end: inside how many brackets, and whether in a string."""

    def __init__(self) -> None:
        self.depth = 1
        self._in_string = self._is_escaped = False

    def ends(self, block: bytes) -> Iterator[int]:
        """Yield the position in ``block`` of each comma or bracket behind an element of the array."""
        at = int(self._is_escaped)
        self._is_escaped = False
        while found := (_IN_STRING if self._in_string else _OUTSIDE).search(block, at):
            at, token = found.end(), found[0]
            if self._in_string:
                self._in_string = token != b'"'
            elif token == b'"':
                self._in_string = True
            elif token in b"[{":
                self.depth += 1
            elif token in b"]}":
                self.depth -= 1
                if not self.depth:
                    yield found.start()
                    return
            elif self.depth == 1:
                yield found.start()
        self._is_escaped = self._in_string and at < len(block) and block.endswith(b"\\")
