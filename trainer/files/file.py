"""A file: its facts are in a row of the database, its bytes on disk under its id."""

import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from adapters.names import DEFAULT_PROJECT
from trainer.errors import InvalidField

MAX_BYTES: Final = 512 << 20
"""OpenAI's limit on one file, and ours on what a packed one unpacks to."""


class Purpose(StrEnum):
    """OpenAI's values of a file's ``purpose``."""

    ASSISTANTS = "assistants"
    ASSISTANTS_OUTPUT = "assistants_output"
    BATCH = "batch"
    BATCH_OUTPUT = "batch_output"
    FINE_TUNE = "fine-tune"
    FINE_TUNE_RESULTS = "fine-tune-results"
    VISION = "vision"
    USER_DATA = "user_data"
    EVALS = "evals"


UPLOADABLE: Final = frozenset(Purpose) - {Purpose.ASSISTANTS_OUTPUT, Purpose.BATCH_OUTPUT, Purpose.FINE_TUNE_RESULTS}
"""The purposes that callers may upload for; files of the others are written by the server itself."""

_SEPARATOR: Final = re.compile(r"[/\\]")


def check_uploadable(purpose: str | None) -> None:
    """Check that callers may upload files for ``purpose``; raises InvalidField."""
    if purpose not in UPLOADABLE:
        raise InvalidField(f"purpose is one of {', '.join(sorted(UPLOADABLE))}", param="purpose")


def base_name(filename: str) -> str:
    """Return a file's name without directories, of whichever system."""
    return _SEPARATOR.split(filename)[-1]


@dataclass(frozen=True, slots=True)
class File:
    """The facts about a file; times are UTC."""

    id: str
    created_at: datetime
    filename: str
    """The name from the upload; never used as a path."""
    purpose: Purpose
    size_bytes: int
    sha256: str
    """Hex digest of the bytes."""
    expires_at: datetime | None
    """When the file is deleted, unless an unfinished job needs it then; None: never."""
    project: str = DEFAULT_PROJECT
