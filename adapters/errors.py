"""The tree of errors about adapters.

PatchbayError
├── InvalidName, NameNotAllowed
├── NotFound
│   └── AdapterNotFound, VersionNotFound, AliasNotFound, ShareNotFound, RolloutNotFound
├── Conflict
│   └── AliasMoved, RolloutChanged, VersionInUse, NameTaken, VerdictNeeded
├── AdapterRefused, AdapterTooCostly, WorkerProcessDied
├── SafetensorsMalformed, BaseModelUnreadable, WrongBase
├── SourceError
│   └── SourceForbidden, SourceNotFound, SourceUnavailable, SourceTooLarge
├── BlobCorrupt, BlobStoreUnavailable
└── DatabaseUnusable, StorageUnavailable, StorageFull

``server.http.errors`` maps them to HTTP statuses; a test checks that the map is complete. A new error subclasses the
nearest branch and has a message that says what to do next. Its ``code`` is stable and part of the API.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

MAX_FAULTS = 200
"""Faults listed in one refusal; an adapter for another model has one per tensor."""


class PatchbayError(Exception):
    """Root of the tree. ``param`` is the request field at fault, if there is one.

    ``code`` is the class's name in snake case, unless the class states another one.
    """

    code: ClassVar[str] = "internal_error"
    is_passing: ClassVar[bool] = False
    """True where the same request can succeed later: finished work is not given up for it, but tried again."""

    def __init_subclass__(cls) -> None:
        if "code" not in vars(cls):
            cls.code = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param

    @property
    def details(self) -> dict[str, Any]:
        """Extra, machine-readable keys for the error body."""
        return {}


class InvalidName(PatchbayError):
    """A name, alias or reference is not valid."""


class NameNotAllowed(PatchbayError):
    """The caller may not use this name for an adapter: it may belong to another project."""

    def __init__(self, name: str, *, param: str = "name") -> None:
        super().__init__(f"the caller may not publish an adapter named '{name}': choose another name", param=param)


class NotFound(PatchbayError):
    """Nothing has that name."""


class AdapterNotFound(NotFound):
    """No adapter of that name."""

    code = "model_not_found"  # OpenAI's code for an unknown `model`


class VersionNotFound(NotFound):
    """The adapter has no such version, or it was deleted."""


class AliasNotFound(NotFound):
    """The adapter has no such alias."""


class ShareNotFound(NotFound):
    """The adapter is not shared with that project."""


class RolloutNotFound(NotFound):
    """The alias has no rollout that is active, or never had one."""


class Conflict(PatchbayError):
    """The request conflicts with the present state."""


class AliasMoved(Conflict):
    """A compare-and-set failed: the alias does not point where the caller expected."""

    def __init__(self, message: str, *, current: int | None, generation: int | None) -> None:
        super().__init__(message, param="expected")
        self.current = current
        self.generation = generation

    @property
    def details(self) -> dict[str, Any]:
        """``current``: the version that the alias points to now (None: no alias), and its generation."""
        return {"current": {"version": self.current, "generation": self.generation}}


class RolloutChanged(Conflict):
    """A compare-and-set failed: the rollout has another generation than the caller expected."""

    def __init__(self, message: str, *, generation: int) -> None:
        super().__init__(message, param="generation")
        self.generation = generation

    @property
    def details(self) -> dict[str, Any]:
        """``current``: the generation that the rollout has now."""
        return {"current": {"generation": self.generation}}


class VerdictNeeded(Conflict):
    """The alias demands a verdict that the version does not have."""

    def __init__(self, message: str, *, requirement: str, verdict: dict[str, Any] | None) -> None:
        super().__init__(message, param="version")
        self.requirement = requirement
        self.verdict = verdict

    @property
    def details(self) -> dict[str, Any]:
        """``require``: what the alias demands; ``verdict``: what the version has, with its numbers; None: nothing."""
        return {"require": self.requirement, "verdict": self.verdict}


class VersionInUse(Conflict):
    """The version is pinned or an alias points to it."""


class NameTaken(Conflict):
    """The name belongs to the base model, or to a deleted version: no other version gets the name."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with an adapter: where, what was found, what is needed."""

    where: str
    found: str
    needed: str

    def __str__(self) -> str:
        return f"{self.where}: found {self.found}; needed {self.needed}"


class AdapterRefused(PatchbayError):
    """The checks found faults. The message lists the first few, ``details`` all of them."""

    SHOWN: ClassVar[int] = 5

    def __init__(self, faults: Sequence[Fault], *, param: str | None = None) -> None:
        self.faults = tuple(faults)
        shown = "; ".join(map(str, self.faults[: self.SHOWN]))
        more = f" (and {len(self.faults) - self.SHOWN} more)" if len(self.faults) > self.SHOWN else ""
        super().__init__(f"adapter refused: {shown}{more}", param=param)

    @property
    def details(self) -> dict[str, Any]:
        """``faults``: every fault as {where, found, needed}."""
        return {"faults": [asdict(fault) for fault in self.faults]}


class AdapterTooCostly(PatchbayError):
    """Work on an adapter exceeded a limit on memory or time, which the message names."""


class WorkerProcessDied(PatchbayError):
    """A child process that works on adapters ended without an answer; ``log`` is the end of its stderr."""

    is_passing = True

    code = "compiler_died"

    def __init__(self, message: str, *, log: str) -> None:
        super().__init__(message)
        self.log = log


class SafetensorsMalformed(PatchbayError):
    """A file breaks the safetensors format or our limits on it; ``fault`` says where."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault


class BaseModelUnreadable(PatchbayError):
    """A base model directory without readable config or weights."""


class WrongBase(PatchbayError):
    """A version made for another base model than the one served."""


class SourceError(PatchbayError):
    """The adapter's bytes could not be fetched."""


class SourceForbidden(SourceError):
    """The server may not read this source, or one of its files."""


class SourceNotFound(SourceError):
    """The source, or a file that it must have, does not exist."""


class SourceUnavailable(SourceError):
    """The source did not answer, or sent a malformed answer; trying again may help."""

    is_passing = True


class SourceTooLarge(SourceError):
    """The source has more bytes than the server accepts."""


class BlobCorrupt(PatchbayError):
    """Stored bytes no longer match their digest."""


class BlobStoreUnavailable(PatchbayError):
    """The object store of the blobs does not answer, or its URL cannot be used."""

    is_passing = True


class DatabaseUnusable(PatchbayError):
    """The database URL cannot be used as it is: malformed, without its driver, or without its directory."""


class StorageUnavailable(PatchbayError):
    """The database does not answer, or stays locked; the message says whether a change may have been written."""

    is_passing = True


class StorageFull(PatchbayError):
    """The disk has no space for what was sent."""

    is_passing = True
