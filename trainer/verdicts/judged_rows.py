"""The rows that a job's verdict is made of, as token ids: rendered with the files of the run, read by the server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

FILE: Final = "judged.json"
"""In the directory of the run's token rows."""
MOST_TOKENS: Final = 2048
"""Of prompt and answer together: an engine computes the whole vocabulary's probabilities at each of them."""


class JudgedRow(BaseModel):
    """One row. What its method has no use for is empty."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    line: int
    """In its file."""
    prompt: list[int] = []
    answer: list[int] = []
    """The reference answer; of a pair the better one."""
    worse: list[int] | None = None
    """The worse answer of a pair."""
    shots: dict[int, list[int]] = {}
    """By number of examples, the prompt with so many training rows before it."""
    item: dict[str, Any] | None = None
    """What graders read as ``{{item.…}}``."""

    @property
    def tokens(self) -> int:
        """The length of the longest sequence that an engine reads for the row."""
        answers = (len(answer) for answer in (self.answer, self.worse) if answer is not None)
        return max(map(len, (self.prompt, *self.shots.values()))) + max(answers)


class JudgedRows(BaseModel):
    """The rows of a run."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    held_out: list[JudgedRow]
    """Of the validation file, drawn by the job's seed."""
    trained: list[JudgedRow]
    """Of the training file, drawn likewise: to choose the number of examples, and to measure memorisation."""
    rows: int
    """Rows of the validation file."""
    near_duplicates: int
    """Rows left out because the training file has the same prompt but for case, punctuation and spacing."""
    too_long: int
    """Rows left out because they have more than ``MOST_TOKENS``."""

    @classmethod
    def read(cls, directory: Path) -> JudgedRows | None:
        """Return the rows in a directory of token rows; None if it has none."""
        try:
            return cls.model_validate_json((directory / FILE).read_bytes())
        except FileNotFoundError:
            return None

    def write(self, directory: Path) -> None:
        (directory / FILE).write_bytes(self.model_dump_json(exclude_defaults=True).encode())


Scores = Mapping[str, Sequence[float]]
"""By measure, the score of each row; a larger one is better."""
