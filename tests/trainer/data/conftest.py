"""Training files written for one test."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from trainer.data.training_file import ReadLine, read_file

Write = Callable[..., Path]
Read = Callable[[dict[str, Any]], ReadLine]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write rows (objects, or lines as they are) to a file of a given name."""

    def write(rows: Sequence[Any], name: str = "train.jsonl") -> Path:
        lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
        path = tmp_path / name
        path.write_bytes(b"\n".join(lines) + b"\n")
        return path

    return write


@pytest.fixture
def chats() -> list[dict[str, Any]]:
    """Enough rows to train on, none like another."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"What is {number} times 3?"},
                {"role": "assistant", "content": str(number * 3)},
            ]
        }
        for number in range(120)
    ]


@pytest.fixture(scope="session")
def read(tmp_path_factory: pytest.TempPathFactory) -> Read:
    """Reads one row, which has no fault."""
    path: Path = tmp_path_factory.mktemp("formats") / "train.jsonl"

    def read(row: dict[str, Any]) -> ReadLine:
        path.write_text(json.dumps(row) + "\n")
        (line,) = read_file(path)
        assert line.faults == (), row
        return line

    return read
