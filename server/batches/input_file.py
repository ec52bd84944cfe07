"""The input file of a batch: JSONL, a request a line. Its faults are found as a whole before the first is sent."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from adapters.errors import MAX_FAULTS
from adapters.storage.disk import in_thread
from server.batches.batch import InputFault

MAX_LINES: Final = 50_000
"""OpenAI's limit on the lines of one file."""
MAX_CUSTOM_ID_LENGTH: Final = 512

_MARK: Final = b"\xef\xbb\xbf"
"""The byte order mark that some editors write at the start of a file."""
_LINES_AT_ONCE: Final = 500
"""Lines read by one call of a thread: the server's own loop goes on in between."""

CheckModel = Callable[[str], str | None]
"""Takes the ``model`` of a line; returns the reason why it cannot be called, None if it can."""


@dataclass(frozen=True, slots=True)
class BatchLine:
    """A line of a valid file."""

    custom_id: str
    body: dict[str, Any]

    @property
    def model(self) -> str:
        return str(self.body["model"])


@dataclass(slots=True)
class _Checked:
    """The findings about the lines read so far."""

    faults: list[InputFault] = field(default_factory=list)
    count: int = 0
    """Number of faults; more than ``faults`` lists, where there are very many."""
    first_use: dict[str, int] = field(default_factory=dict)
    """Number of the line that has a custom_id first."""
    models: dict[str, str | None] = field(default_factory=dict)
    """The reason why a model cannot be called, by model."""

    def add(self, code: str, message: str, line: int | None = None, param: str | None = None) -> None:
        self.count += 1
        if len(self.faults) < MAX_FAULTS:
            self.faults.append(InputFault(code, message, line, param))


@dataclass(frozen=True, slots=True)
class InputFile:
    """The lines of a file by index; blank lines are none. The content is read again from disk for each use."""

    path: Path
    spans: list[tuple[int, int, int]]
    """Number in the file (from 1), offset and length in bytes of each line."""

    @classmethod
    async def open(cls, path: Path) -> InputFile:
        """Find the lines of ``path``. Raises OSError where it cannot be read."""
        return cls(path, await in_thread(_spans, path))

    def __len__(self) -> int:
        return len(self.spans)

    async def line(self, index: int) -> BatchLine:
        """Return a line of a valid file."""
        (content,) = await in_thread(self._read, range(index, index + 1))
        row = json.loads(content)
        return BatchLine(row["custom_id"], row["body"])

    async def faults(self, endpoint: str, check_model: CheckModel) -> tuple[list[InputFault], frozenset[str]]:
        """Return the faults of all lines, ``MAX_FAULTS`` and a last one that counts the rest; and the models."""
        checked = _Checked()
        if not self.spans:
            checked.add("empty_file", "the file has no lines: write a request a line, as JSON")
        if len(self.spans) > MAX_LINES:
            checked.add("too_many_tasks", f"the file has {len(self.spans)} lines; at most {MAX_LINES}: split it")
        else:
            for start in range(0, len(self.spans), _LINES_AT_ONCE):
                stop = min(start + _LINES_AT_ONCE, len(self.spans))
                await in_thread(self._check, range(start, stop), endpoint, check_model, checked)
        if checked.count > len(checked.faults):
            rest = checked.count - len(checked.faults)
            checked.faults.append(InputFault("more_errors", f"{rest} more faults are not listed"))
        return checked.faults, frozenset(checked.models)

    def _read(self, indices: range) -> list[bytes]:
        contents = []
        with self.path.open("rb") as file:
            for index in indices:
                _, offset, length = self.spans[index]
                file.seek(offset)
                contents.append(file.read(length))
        return contents

    def _check(self, indices: range, endpoint: str, check_model: CheckModel, checked: _Checked) -> None:
        for index, content in zip(indices, self._read(indices), strict=True):
            _check_line(content, self.spans[index][0], endpoint, check_model, checked)


def _spans(path: Path) -> list[tuple[int, int, int]]:
    spans, offset = [], 0
    with path.open("rb") as file:
        for number, content in enumerate(file, 1):
            skipped = len(_MARK) if number == 1 and content.startswith(_MARK) else 0
            if content[skipped:].strip():
                spans.append((number, offset + skipped, len(content) - skipped))
            offset += len(content)
    return spans


def _check_line(content: bytes, number: int, endpoint: str, check_model: CheckModel, checked: _Checked) -> None:
    try:
        row = json.loads(content)
    except (ValueError, RecursionError) as broken:
        checked.add("invalid_json_line", f"line {number} is not JSON: {broken}", number)
        return
    if not isinstance(row, dict):
        checked.add("invalid_json_line", f"line {number} is not a JSON object", number)
        return
    _check_custom_id(row.get("custom_id"), number, checked)
    if (method := row.get("method")) != "POST":
        checked.add("invalid_method", f"method is 'POST' (found {method!r:.40})", number, "method")
    if (url := row.get("url")) != endpoint:
        checked.add("invalid_url", f"url is the batch's endpoint '{endpoint}' (found {url!r:.100})", number, "url")
    if not isinstance(row.get("body"), dict):
        checked.add("invalid_body", "body is the JSON object to send", number, "body")
    else:
        _check_body(row["body"], number, check_model, checked)


def _check_custom_id(custom_id: Any, number: int, checked: _Checked) -> None:
    if not (isinstance(custom_id, str) and 0 < len(custom_id) <= MAX_CUSTOM_ID_LENGTH):
        message = f"custom_id is a text of 1 to {MAX_CUSTOM_ID_LENGTH} characters (found {custom_id!r:.40})"
        checked.add("invalid_custom_id", message, number, "custom_id")
    elif (first := checked.first_use.setdefault(custom_id, number)) != number:
        message = f"custom_id {custom_id!r:.100} is that of line {first} already: each line needs its own"
        checked.add("duplicate_custom_id", message, number, "custom_id")


def _check_body(body: dict[str, Any], number: int, check_model: CheckModel, checked: _Checked) -> None:
    model = body.get("model")
    if not (isinstance(model, str) and model):
        checked.add("missing_required_parameter", "body.model names the model to ask", number, "body.model")
    else:
        if model not in checked.models:
            checked.models[model] = check_model(model)
        if (reason := checked.models[model]) is not None:
            checked.add("model_not_found", reason, number, "body.model")
    for name in ("stream", "background"):
        if body.get(name):
            message = f"body.{name} has no effect in a batch, whose results come in a file: leave it out"
            checked.add("unsupported_parameter", message, number, f"body.{name}")
