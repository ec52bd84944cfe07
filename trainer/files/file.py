"""A file, as it is kept: facts in a row, bytes on disk under its id."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final


class Purpose(StrEnum):
    """What a file is for. OpenAI's words."""

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
"""What callers may upload for; the others are written by the server itself."""


class Status(StrEnum):
    """How far a file has come."""

    UPLOADED = "uploaded"
    """Here, and still being looked at."""
    PROCESSED = "processed"
    """Ready for use."""
    ERROR = "error"
    """Looked at and found faulty; ``status_details`` says how. No job takes it."""


@dataclass(frozen=True, slots=True)
class File:
    """A file without its bytes; times are UTC."""

    id: str
    created_at: datetime
    filename: str
    """What the uploader called it; never a path."""
    purpose: Purpose
    status: Status
    status_details: str | None
    size_bytes: int
    sha256: str
    """Hex digest of the bytes."""
    expires_at: datetime | None
    """When it will be deleted, unless an unfinished job still needs it then. None: never."""
