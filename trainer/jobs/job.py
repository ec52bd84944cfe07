"""A job: what was asked for, where it stands, what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from trainer.errors import InvalidField
from trainer.jobs.state import JobState
from trainer.schema import MAX_MODEL_LENGTH

MAX_SUFFIX_LENGTH: Final = 64
MAX_SEED: Final = 2**31 - 1
MAX_PAIRS, MAX_KEY_LENGTH, MAX_VALUE_LENGTH = 16, 64, 512
"""OpenAI's limits on metadata."""

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a job failed: OpenAI's ``error`` of a job. ``param`` names the field at fault, where there is one."""

    code: str
    message: str
    param: str | None = None


@dataclass(frozen=True, slots=True)
class JobDraft:
    """What somebody asks for. ``method`` is OpenAI's object: ``{"type": T, T: {"hyperparameters": …}}``.

    Raises:
        InvalidField: a field is out of OpenAI's bounds. What is in ``method`` and ``extension`` is not looked at.
    """

    model: str
    """The base, or the reference that training starts from, as the caller wrote it."""
    training_file: str
    method: Json
    validation_file: str | None = None
    seed: int | None = None
    """None: the store draws one."""
    suffix: str | None = None
    metadata: Mapping[str, str] | None = None
    integrations: Sequence[Json] | None = None
    extension: Json = field(default_factory=dict)
    """Our own fields, beside OpenAI's: adapter name, rank, packing…"""
    organization_id: str = "patchbay"

    def __post_init__(self) -> None:
        _check(0 < len(self.model) <= MAX_MODEL_LENGTH, "model", f"is a name of at most {MAX_MODEL_LENGTH} characters")
        _check(isinstance(self.method.get("type"), str), "method.type", "is the name of a training method")
        seeds, suffixes = range(MAX_SEED + 1), range(1, MAX_SUFFIX_LENGTH + 1)
        _check(self.seed is None or self.seed in seeds, "seed", f"is a number from 0 to {MAX_SEED}")
        _check(
            self.suffix is None or len(self.suffix) in suffixes, "suffix", f"has 1 to {MAX_SUFFIX_LENGTH} characters"
        )
        pairs = (self.metadata or {}).items()
        _check(
            len(pairs) <= MAX_PAIRS and all(len(k) <= MAX_KEY_LENGTH and len(v) <= MAX_VALUE_LENGTH for k, v in pairs),
            "metadata",
            f"has at most {MAX_PAIRS} pairs, of keys to {MAX_KEY_LENGTH} and values to {MAX_VALUE_LENGTH} characters",
        )


@dataclass(frozen=True, slots=True)
class Job:
    """A job at one moment; times are UTC."""

    id: str
    created_at: datetime
    state: JobState
    organization_id: str
    model: str
    training_file: str
    validation_file: str | None
    method: Json
    seed: int
    suffix: str | None
    metadata: Mapping[str, str] | None
    integrations: Sequence[Json] | None
    extension: Json
    token: int
    """How often a worker took it; also the fencing token of the last one that did."""
    worker: str | None
    """Who holds it; None: nobody."""
    deaths: int
    """Attempts that died since its last new checkpoint, or since it was resumed."""
    estimated_finish: datetime | None
    events_position: int
    """Bytes of its run's events that are in the job's log."""
    finished_at: datetime | None
    fine_tuned_model: str | None
    trained_tokens: int | None
    result_files: tuple[str, ...]
    """Ids of files."""
    error: Failure | None

    @property
    def hyperparameters(self) -> Json:
        """The method's hyperparameters; OpenAI shows them at the top of a job too."""
        found: Json = self.method.get(self.method["type"], {}).get("hyperparameters", {})
        return found


def _check(is_so: bool, param: str, rule: str) -> None:  # noqa: FBT001 - an assertion
    if not is_so:
        raise InvalidField(f"{param} {rule}", param=param)
