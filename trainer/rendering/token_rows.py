"""The token ids of a run's files, on disk: Arrow files that the training process maps into memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

Columns = dict[str, Any]
"""One row of a data set, by column."""
IGNORED: Final = -100
"""The label of a token that makes no loss (torch's own value)."""
TRAINING: Final = "training.arrow"
VALIDATION: Final = "validation.arrow"
TOKENS: Final = "tokens"
"""Column of a row's length: that of its longest sequence."""
_BATCH: Final = 1000
_BATCH_TOKENS: Final = 1 << 20
_ANSWERS: Final = ("chosen_ids", "rejected_ids", "completion_ids")


def lengths(made: Columns) -> list[int]:
    """Return the length of each sequence that goes through the model for a row: a pair is two."""
    if "input_ids" in made:
        return [len(made["input_ids"])]
    asked = len(made.get("prompt_ids", ()))
    return [asked + len(made[name]) for name in _ANSWERS if name in made] or [asked]


def tokens(made: Columns) -> int:
    """Return the length of a row's longest sequence."""
    return max(lengths(made))


class TokenRowWriter:
    """Writes rows of one method to an Arrow stream at ``path``; an empty one leaves no file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: list[Columns] = []
        self._tokens = 0
        self._schema: pa.Schema | None = None
        self._stream: pa.RecordBatchStreamWriter | None = None

    def write(self, row: Columns) -> None:
        self._rows.append(row | {TOKENS: tokens(row)})
        self._tokens += sum(lengths(row))
        if len(self._rows) == _BATCH or self._tokens >= _BATCH_TOKENS:
            self._flush()

    def close(self) -> None:
        if self._rows:
            self._flush()
        if self._stream is not None:
            self._stream.close()

    def _flush(self) -> None:
        if self._stream is None:
            self._schema = pa.schema([(name, _type(value)) for name, value in self._rows[0].items()])
            self._stream = pa.ipc.new_stream(str(self._path), self._schema)
        self._stream.write_batch(pa.RecordBatch.from_pylist(self._rows, schema=self._schema))
        self._rows.clear()
        self._tokens = 0


@contextmanager
def writer(path: Path) -> Iterator[TokenRowWriter]:
    """Open a writer for the length of the block."""
    rows = TokenRowWriter(path)
    try:
        yield rows
    finally:
        rows.close()


def _type(value: Any) -> pa.DataType:
    match value:
        case bool():
            return pa.bool_()
        case int():
            return pa.int32()
        case str():
            return pa.large_string()
        case _:
            return pa.list_(pa.int32())
