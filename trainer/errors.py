"""Errors of training jobs: the trainer's branches of the tree in ``adapters.errors``.

PatchbayError
├── InvalidField           a field of a file or a job has a value that is not allowed; ``param`` names it
├── FileTooLarge           a file with more bytes than the server accepts
├── FileCorrupt            the bytes of an uploaded file are gone or cut short
├── PreflightDied          the preflight of a job ended without a report
├── PublicationRefused     a server refused what a worker beside another one wants to publish
├── (NotFound)
│   ├── FileNotFound
│   ├── JobNotFound
│   ├── CheckpointNotFound
│   └── PermissionNotFound
└── (Conflict)
    ├── FileInUse          deletion of a file that an unfinished job still needs
    ├── IllegalTransition  the job's state does not allow it; carries the state
    └── LeaseLost          a worker writes about a job that it no longer holds
"""

from __future__ import annotations

from typing import Any

from adapters.errors import Conflict, NotFound, PatchbayError


class InvalidField(PatchbayError):
    """A field of a file or a job has a value that is not allowed; ``param`` names it."""

    code = "invalid_field"

    def __init__(self, message: str, *, param: str) -> None:
        super().__init__(message, param=param)


class FileTooLarge(PatchbayError):
    """More bytes than the server accepts in one file."""

    code = "file_too_large"


class FileCorrupt(PatchbayError):
    """The bytes of an uploaded file are gone or cut short."""

    code = "file_corrupt"


class PreflightDied(PatchbayError):
    """The preflight of a job ended without a report; ``log`` is the end of its output."""

    code = "validation_died"

    def __init__(self, message: str, *, log: str) -> None:
        super().__init__(message)
        self.log = log


class PublicationRefused(PatchbayError):
    """The server refused to publish a run's adapter; the message is the server's."""

    code = "publication_refused"


class FileNotFound(NotFound):
    """No file has this id, or it was deleted."""

    code = "file_not_found"


class JobNotFound(NotFound):
    """No job has this id."""

    code = "job_not_found"


class CheckpointNotFound(NotFound):
    """No job made a checkpoint of this name."""

    code = "checkpoint_not_found"


class PermissionNotFound(NotFound):
    """The checkpoint has no permission with this id."""

    code = "permission_not_found"


class FileInUse(Conflict):
    """An unfinished job still needs the file."""

    code = "file_in_use"


class IllegalTransition(Conflict):
    """The job's state does not allow the request."""

    code = "illegal_transition"

    def __init__(self, message: str, *, status: str) -> None:
        super().__init__(message)
        self.status = status

    @property
    def details(self) -> dict[str, Any]:
        """``status``: the state that the job is in."""
        return {"status": self.status}


class LeaseLost(Conflict):
    """The worker no longer holds the job: its write was refused as a whole."""

    code = "lease_lost"
