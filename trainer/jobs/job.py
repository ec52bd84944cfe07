"""A fine-tuning job: its request, its state and its result."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from adapters.names import DEFAULT_PROJECT
from trainer.errors import InvalidField
from trainer.jobs.state import JobState
from trainer.options import MAX_SEED
from trainer.schema import MAX_MODEL_LENGTH

MAX_SUFFIX_LENGTH: Final = 64
MAX_PAIRS, MAX_KEY_LENGTH, MAX_VALUE_LENGTH = 16, 64, 512
"""OpenAI's limits on metadata."""

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Failure:
    """The reason why a job failed: OpenAI's ``error`` of a job. ``param`` names the field at fault, if any."""

    code: str
    message: str
    param: str | None = None


@dataclass(frozen=True, slots=True)
class JobDraft:
    """The request for a job. ``method`` is OpenAI's object: ``{"type": T, T: {"hyperparameters": …}}``.

    Raises:
        InvalidField: a field is out of OpenAI's bounds. The content of ``method`` and ``extension`` is not checked.
    """

    model: str
    """The base model, or the adapter reference that training starts from, as the caller wrote it."""
    training_file: str
    method: Json
    validation_file: str | None = None
    seed: int | None = None
    """None: the store draws a random one."""
    suffix: str | None = None
    metadata: Mapping[str, str] | None = None
    integrations: Sequence[Json] | None = None
    extension: Json = field(default_factory=dict)
    """Fields of this server beside OpenAI's: adapter name, rank, packing…"""
    base_fingerprint: str | None = None
    """Of the base model that ``model`` means; processes that serve another one leave the job alone. None: any."""
    organization_id: str = "patchbay"
    key_id: str | None = None
    """Of the API key that it is charged to, beside its project; None: to the project alone."""
    project: str = DEFAULT_PROJECT
    """Its files, its events and its adapter belong to the same project."""
    notes: Sequence[str] = ()
    """What was made of the request, as messages of the job's first events."""

    def __post_init__(self) -> None:
        _check(0 < len(self.model) <= MAX_MODEL_LENGTH, "model", f"is a name of at most {MAX_MODEL_LENGTH} characters")
        _check(isinstance(self.method.get("type"), str), "method.type", "is the name of a training method")
        seeds, suffixes = range(MAX_SEED + 1), range(1, MAX_SUFFIX_LENGTH + 1)
        _check(self.seed is None or self.seed in seeds, "seed", f"is a number from 0 to {MAX_SEED}")
        is_suffix = self.suffix is None or len(self.suffix) in suffixes
        _check(is_suffix, "suffix", f"has 1 to {MAX_SUFFIX_LENGTH} characters")
        pairs = (self.metadata or {}).items()
        are_short = all(len(key) <= MAX_KEY_LENGTH and len(value) <= MAX_VALUE_LENGTH for key, value in pairs)
        rule = f"has at most {MAX_PAIRS} pairs, of keys to {MAX_KEY_LENGTH} and values to {MAX_VALUE_LENGTH} characters"
        _check(len(pairs) <= MAX_PAIRS and are_short, "metadata", rule)


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it was when it was read; times are UTC."""

    id: str
    created_at: datetime
    state: JobState
    project: str
    key_id: str | None
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
    """Number of times a worker took it; also the fencing token of the last claim."""
    worker: str | None
    """Name of the worker that holds it; None: it is not held."""
    deaths: int
    """Attempts that died since the last new checkpoint, or since the job was resumed."""
    estimated_finish: datetime | None
    events_position: int
    """Bytes of the run's event file that are in the job's log already."""
    trained_seconds: float
    """Seconds for which workers held it."""
    finished_at: datetime | None
    fine_tuned_model: str | None
    trained_tokens: int | None
    verdict: Json | None
    """What its validation file says of the result: ``result`` (None: no verdict), ``message`` and ``rows``."""
    result_files: tuple[str, ...]
    """Ids of files."""
    error: Failure | None

    @property
    def hyperparameters(self) -> Json:
        """The method's hyperparameters; OpenAI shows them at the top of a job too."""
        hyperparameters: Json = self.method.get(self.method["type"], {}).get("hyperparameters", {})
        return hyperparameters

    @property
    def grader(self) -> Json | None:
        """The grader whose rewards the job learns from, where the server draws the answers."""
        grader: Json | None = self._of_method("grader")
        return grader

    @property
    def prompt(self) -> Sequence[Json]:
        """Of a distillation: the messages that the teacher has before each question."""
        return self._of_method("prompt") or ()

    @property
    def teacher(self) -> str | None:
        """Of a distillation: the version that answers the questions; None: the base model does."""
        teacher: str | None = self._of_method("teacher")
        return teacher

    def _of_method(self, name: str) -> Any:
        return self.method.get(self.method["type"], {}).get(name)

    @property
    def adapter(self) -> str:
        """The adapter that the job makes versions of: the one it names, else its suffix, else its id."""
        return str(self.extension.get("adapter") or self.suffix or self.id)


def _check(is_valid: bool, param: str, rule: str) -> None:  # noqa: FBT001 - an assertion
    if not is_valid:
        raise InvalidField(f"{param} {rule}", param=param)
