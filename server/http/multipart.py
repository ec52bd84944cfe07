"""Multipart uploads as streams: each file part is read in chunks as it arrives, neither held in memory nor spooled."""

from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from server.errors import InvalidRequest

_MOST_HEADER_BYTES = 8 * 1024


class _Part:
    """One part: the options of its Content-Disposition, and the chunks that are parsed but not read yet."""

    def __init__(self) -> None:
        self.chunks: deque[bytes] = deque()
        self.disposition: dict[bytes, bytes] = {}
        self.is_complete = False

    def option(self, key: bytes) -> str | None:
        return self.disposition[key].decode("utf-8", "replace") if key in self.disposition else None


class MultipartStream:
    """Reads the parts of ``request`` in order; a part must be read to its end before the next.

    ``needed`` names the parts that the form must have, for the error message.

    Raises:
        InvalidRequest: the body is not a multipart form, or is cut off.
    """

    def __init__(self, request: Request, *, needed: str) -> None:
        kind, options = parse_options_header(request.headers.get("content-type"))
        boundary = options.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            raise InvalidRequest(f"send multipart/form-data with {needed}", param="Content-Type")
        self._body = request.stream()
        self._parts: deque[_Part] = deque()
        self._header_name, self._header_value = "", b""
        with _parsing():  # checks the boundary's length
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": lambda: self._parts.append(_Part()),
                    "on_header_field": self._on_header_field,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_part_data": self._on_part_data,
                    "on_part_end": self._on_part_end,
                },
            )

    async def parts(self) -> AsyncIterator[tuple[str, AsyncIterator[bytes]]]:
        """Yield (file name, chunks) for each part; the field's name instead if it is a path or there is no file name.

        Clients such as curl remove the directories from a file name.
        """
        async for name, file_name, chunks in self.fields():
            yield (name if "/" in name else file_name or name), chunks

    async def fields(self) -> AsyncIterator[tuple[str, str | None, AsyncIterator[bytes]]]:
        """Yield (field name, file name, chunks) for each part."""
        while True:
            while not self._parts:
                if not await self._feed():
                    return
            part = self._parts[0]
            while not (part.chunks or part.is_complete):  # until then its headers may be incomplete
                await self._feed()
            yield part.option(b"name") or "", part.option(b"filename") or None, self._chunks(part)
            async for _ in self._chunks(part):
                pass
            self._parts.popleft()

    async def _chunks(self, part: _Part) -> AsyncIterator[bytes]:
        while part.chunks or not part.is_complete:
            if part.chunks:
                yield part.chunks.popleft()
            else:
                await self._feed()

    async def _feed(self) -> bool:
        """Parse the next chunk of the body; False at its end, which is an error within a part."""
        async for chunk in self._body:
            if chunk:
                with _parsing():
                    self._parser.write(chunk)
                return True
        if any(not part.is_complete for part in self._parts):
            raise InvalidRequest("the upload broke off before its end; send it again")
        return False

    # -- the parser's callbacks --------------------------------------------------------------------------------

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end].decode("latin-1").lower()

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]
        if len(self._header_value) > _MOST_HEADER_BYTES:
            raise InvalidRequest("a part of the upload has an overlong header")

    def _on_header_end(self) -> None:
        if self._header_name == "content-disposition":
            _, self._parts[-1].disposition = parse_options_header(self._header_value)
        self._header_name, self._header_value = "", b""

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._parts[-1].chunks.append(bytes(data[start:end]))

    def _on_part_end(self) -> None:
        self._parts[-1].is_complete = True


@contextmanager
def _parsing() -> Iterator[None]:
    """Turn the parser's errors into ``InvalidRequest``."""
    try:
        yield
    except FormParserError as malformed:
        raise InvalidRequest(f"the multipart body is malformed: {malformed}") from malformed
