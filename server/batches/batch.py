"""A batch: its request, its state, its counts and its result files."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from adapters.names import DEFAULT_PROJECT
from server.batches.state import BatchState


@dataclass(frozen=True, slots=True)
class BatchDraft:
    """The request for a batch."""

    endpoint: str
    input_file_id: str
    metadata: Mapping[str, str] | None = None
    output_expires_after_s: int | None = None
    key_id: str | None = None
    """Id of the API key that created it: its lines act with this key's rights. None: the server had no keys."""
    project: str = DEFAULT_PROJECT
    """Its files belong to the same project."""


@dataclass(frozen=True, slots=True)
class InputFault:
    """One thing wrong with a line of the input file: an entry of OpenAI's ``errors.data`` of a batch."""

    code: str
    message: str
    line: int | None = None
    """Counted from 1; None: the fault is not of one line."""
    param: str | None = None


@dataclass(frozen=True, slots=True)
class RequestBatch:
    """A batch as it was when it was read; times are UTC."""

    id: str
    created_at: datetime
    state: BatchState
    endpoint: str
    input_file_id: str
    metadata: Mapping[str, str] | None
    output_expires_after_s: int | None
    key_id: str | None
    project: str
    expires_at: datetime
    token: int
    """Number of times a process took it; also the fencing token of the last claim."""
    worker: str | None
    """Name of the process that works on it; None: none does."""
    model: str | None
    """The model of all its lines; None: they name several, or are not validated yet."""
    total: int
    """Lines of its input file."""
    completed: int
    """Lines answered with status 200."""
    failed: int
    """Lines answered with another status."""
    output_file_id: str | None
    error_file_id: str | None
    errors: tuple[Mapping[str, Any], ...] | None
    """Faults of the input file, as ``InputFault``; or why it was cancelled."""
    in_progress_at: datetime | None
    finalizing_at: datetime | None
    completed_at: datetime | None
    failed_at: datetime | None
    expired_at: datetime | None
    cancelling_at: datetime | None
    cancelled_at: datetime | None
