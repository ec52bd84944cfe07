"""An eval, a run of it, and the items of a run with their results; times are UTC."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from adapters.names import DEFAULT_PROJECT
from trainer.evals.state import EvalRunState

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class EvalDraft:
    """The request for an eval, checked."""

    name: str
    data_source_config: Json
    testing_criteria: Sequence[Json]
    """Definitions of graders, as the caller wrote them."""
    metadata: Mapping[str, str] | None = None
    project: str = DEFAULT_PROJECT


@dataclass(frozen=True, slots=True)
class Eval:
    """Graders, and the form of the items that they are applied to."""

    id: str
    project: str
    created_at: datetime
    updated_at: datetime
    name: str
    metadata: Mapping[str, str] | None
    data_source_config: Json
    testing_criteria: Sequence[Json]


@dataclass(frozen=True, slots=True)
class SourceItem:
    """An item of a run's data source, and the answer to it where the source has one."""

    item: Json
    answer: Json | None = None
    """``output_text``, and ``model`` where the source names it."""


@dataclass(frozen=True, slots=True)
class EvalRunDraft:
    """The request for a run, checked."""

    name: str
    data_source: Json
    """As the caller wrote it."""
    model: str
    """Name of the version to ask, or of the base model; empty where the items have their answers."""
    metadata: Mapping[str, str] | None = None
    key_id: str | None = None
    """Of the API key that it acts for; None: the server had no keys."""


@dataclass(frozen=True, slots=True)
class EvalRun:
    """One pass over the items of a data source."""

    id: str
    number: int
    project: str
    created_at: datetime
    eval_id: str
    state: EvalRunState
    key_id: str | None
    name: str
    metadata: Mapping[str, str] | None
    data_source: Json
    model: str
    token: int
    """Number of times a process took it; also the fencing token of the last claim."""
    total: int
    """Items of its data source."""
    passed: int
    failed: int
    errored: int
    per_criterion: Sequence[Json]
    """``passed`` and ``failed`` of each testing criterion."""
    per_model: Mapping[str, Mapping[str, int]]
    """Tokens and invocations by model, graders' included."""
    error: Json | None

    @property
    def executed(self) -> int:
        """Items with results."""
        return self.passed + self.failed + self.errored


class ItemStatus(StrEnum):
    """The states of an item of a run; but for the first they are final."""

    PENDING = "pending"
    PASS = "pass"  # noqa: S105  not a password
    FAIL = "fail"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class EvalItem:
    """An item of a run, with its results once it has any."""

    id: str
    number: int
    created_at: datetime
    position: int
    item: Json
    answer: Json | None
    status: ItemStatus
    sample: Json | None
    results: Sequence[Json] | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """The results of one item."""

    number: int
    status: ItemStatus
    sample: Json
    results: Sequence[Json]
    usage: Mapping[str, Mapping[str, int]]
    """Tokens and invocations by model."""
