"""Errors of training jobs: the trainer's branches of the tree in ``adapters.errors``.

PatchbayError
├── InvalidField, FileTooLarge, FileCorrupt, PreflightDied, PublicationRefused
├── (NotFound)
│   ├── FileNotFound, UploadNotFound, JobNotFound, CheckpointNotFound, PermissionNotFound
│   └── EvalNotFound, EvalRunNotFound, EvalItemNotFound, FeedbackNotFound
└── (Conflict)
    └── FileInUse, IllegalTransition, LeaseLost
"""

from typing import Any

from adapters.errors import Conflict, NotFound, PatchbayError


class InvalidField(PatchbayError):
    """A field of a file or a job has a value that is not allowed; ``param`` names it."""

    def __init__(self, message: str, *, param: str) -> None:
        super().__init__(message, param=param)


class FileTooLarge(PatchbayError):
    """More bytes than the server accepts in one file."""


class FileCorrupt(PatchbayError):
    """The bytes of an uploaded file are gone or cut short."""


class PreflightDied(PatchbayError):
    """The preflight of a job ended without a report; ``log`` is the end of its output."""

    code = "validation_died"

    def __init__(self, message: str, *, log: str) -> None:
        super().__init__(message)
        self.log = log


class PublicationRefused(PatchbayError):
    """The server refused to publish a run's adapter; the message is the server's."""


class FileNotFound(NotFound):
    """No file has this id, or it was deleted."""


class UploadNotFound(NotFound):
    """No upload has this id."""


class FeedbackNotFound(NotFound):
    """No feedback has this id."""


class JobNotFound(NotFound):
    """No job has this id."""


class CheckpointNotFound(NotFound):
    """No job made a checkpoint of this name."""


class PermissionNotFound(NotFound):
    """The checkpoint has no permission with this id."""


class EvalNotFound(NotFound):
    """No eval has this id."""


class EvalRunNotFound(NotFound):
    """The eval has no run with this id."""


class EvalItemNotFound(NotFound):
    """The run has no output item with this id."""


class FileInUse(Conflict):
    """An unfinished job still needs the file."""


class IllegalTransition(Conflict):
    """The job's state does not allow the request."""

    def __init__(self, message: str, *, status: str) -> None:
        super().__init__(message)
        self.status = status

    @property
    def details(self) -> dict[str, Any]:
        """``status``: the state that the job is in."""
        return {"status": self.status}


class LeaseLost(Conflict):
    """The worker no longer holds the job: its write was refused as a whole."""
