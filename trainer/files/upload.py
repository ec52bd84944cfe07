"""An upload: a file that arrives in parts, and becomes a file when it is completed."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from trainer.files.file import File, Purpose

MAX_PART_BYTES: Final = 64 << 20
"""OpenAI's limit on one part."""
UPLOAD_S: Final = 3600
"""Seconds from the creation of an upload to its expiry."""


class UploadStatus(StrEnum):
    """OpenAI's values of an upload's ``status``; all but PENDING are final."""

    PENDING = "pending"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class FileUpload:
    """An upload; times are UTC."""

    id: str
    created_at: datetime
    expires_at: datetime
    status: UploadStatus
    filename: str
    purpose: Purpose
    size_bytes: int
    """The size that the file will have, as its creator stated it."""
    file_expires_after_s: int | None
    project: str
    """The project that the file will belong to."""
    file: File | None = None
    """The file; None before the upload is completed."""


@dataclass(frozen=True, slots=True)
class UploadPart:
    """A part of an upload; the parts' order is stated when the upload is completed."""

    id: str
    created_at: datetime
    upload_id: str
    size_bytes: int
