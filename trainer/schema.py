"""The trainer's tables: files, uploads, feedback, jobs, evals and what belongs to them; the form of their ids and rows.

``number`` is the order of creation, by which lists are paged; ``id`` is used in the API. A deleted file stays as
a tombstone, because jobs go on naming it.
"""

import secrets
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import TypeAdapter
from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Row,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.schema import SchemaItem

from adapters.names import DEFAULT_PROJECT, MAX_PROJECT_LENGTH
from adapters.storage.database import UtcDateTime

T = TypeVar("T")
VERSION_TABLE: Final = "alembic_version_trainer"
"""Alembic's table of the revision of these tables."""

MIGRATIONS: Final = Path(__file__).parent / "migrations"

MAX_MODEL_LENGTH: Final = 512
MAX_ID_LENGTH: Final = 40
_ID_CHARACTERS: Final = string.ascii_lowercase + string.digits  # no capitals: a file's id is also its name on disk

metadata: Final = MetaData()

_Number = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers only INTEGER keys by itself
_Json = JSON(none_as_null=True)


def _project() -> Column[str]:
    return Column("project", String(MAX_PROJECT_LENGTH), nullable=False, server_default=DEFAULT_PROJECT)


def _numbered(name: str, *items: SchemaItem) -> Table:
    """Return a table with a number and an id, then the ``items``."""
    number = Column("number", _Number, primary_key=True, autoincrement=True)
    identity = Column("id", String(MAX_ID_LENGTH), nullable=False, unique=True)
    return Table(name, metadata, number, identity, *items, sqlite_autoincrement=True)


files = _numbered(
    "files",
    _project(),
    Column("created_at", UtcDateTime, nullable=False),
    Column("filename", String(255), nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("status", String(16), nullable=False),
    Column("status_details", Text),
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("expires_at", UtcDateTime, index=True),
    Column("deleted_at", UtcDateTime),
)

uploads = _numbered(
    "uploads",
    _project(),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False, index=True),
    Column("status", String(16), nullable=False),
    Column("filename", String(255), nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("file_expires_after_s", Integer),
    Column("file_id", String(MAX_ID_LENGTH)),
)

# The rows of an upload's parts are deleted when the upload ends.
upload_parts = _numbered(
    "upload_parts",
    Column("created_at", UtcDateTime, nullable=False),
    Column("upload_id", ForeignKey("uploads.id"), nullable=False, index=True),
    Column("size_bytes", BigInteger, nullable=False),
)

jobs = _numbered(
    "jobs",
    _project(),
    Column("created_at", UtcDateTime, nullable=False),
    Column(
        "state",
        String(16),
        CheckConstraint(
            "state IN ('validating_files', 'queued', 'running', 'pausing', 'paused', "
            "'succeeded', 'failed', 'cancelled')",
            name="jobs_state",
        ),
        nullable=False,
        index=True,
    ),
    # the request
    Column("key_id", String(64)),  # of the caller; NULL: none, or created by an older release
    Column("organization_id", String(64), nullable=False),
    Column("model", String(MAX_MODEL_LENGTH), nullable=False),
    Column("training_file", ForeignKey("files.id"), nullable=False, index=True),
    Column("validation_file", ForeignKey("files.id"), index=True),
    Column("method", _Json, nullable=False),
    Column("seed", Integer, nullable=False),
    Column("suffix", String(64)),
    Column("metadata", _Json),
    Column("integrations", _Json),
    Column("extension", _Json, nullable=False),
    # where it can be trained
    Column("store", String(32)),  # id of the directory with its files; NULL: created by an older release
    Column("base_fingerprint", String(128)),  # of the base model that `model` meant; NULL likewise
    # the worker, or the process that checks its files
    Column("token", Integer, nullable=False),  # grows with each claim; a write with an older one is refused
    Column("worker", String(128)),  # NULL: none holds it
    Column("lease_until", UtcDateTime),
    Column("taken_at", UtcDateTime),  # by the last claim
    Column("deaths", Integer, nullable=False),  # attempts that died since its last new checkpoint
    Column("estimated_finish", UtcDateTime),
    Column("events_position", BigInteger, nullable=False, server_default="0"),  # bytes of its run's events in the log
    # what it used
    Column("trained_seconds", Float, nullable=False, server_default="0"),  # that workers held it
    Column("charged_seconds", Float, nullable=False, server_default="0"),  # those of them in the accounts' usage
    Column("charged_tokens", BigInteger, nullable=False, server_default="0"),  # likewise, of trained_tokens
    # the outcome
    Column("finished_at", UtcDateTime),
    Column("fine_tuned_model", String(MAX_MODEL_LENGTH)),
    Column("trained_tokens", BigInteger),
    Column("verdict", _Json),  # what of it the job shows; NULL: it has none, or not yet
    Column("result_files", _Json, nullable=False),
    Column("error", _Json),
)

# An index of jobs.metadata, for lists filtered by it.
job_metadata = Table(
    "job_metadata",
    metadata,
    Column("job_number", ForeignKey("jobs.number"), primary_key=True),
    Column("key", String(64), primary_key=True),
    Column("value", String(512), nullable=False),
    Index("job_metadata_pair", "key", "value"),
)

job_events = _numbered(
    "job_events",
    Column("job_number", ForeignKey("jobs.number"), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("level", String(8), nullable=False),
    Column("type", String(16), nullable=False),
    Column("message", Text, nullable=False),
    Column("data", _Json),
    Index("job_events_of", "job_number", "number"),
)

job_checkpoints = _numbered(
    "job_checkpoints",
    Column("job_number", ForeignKey("jobs.number"), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("step_number", Integer, nullable=False),
    Column("model", String(MAX_MODEL_LENGTH), nullable=False, index=True),
    Column("metrics", _Json, nullable=False),
    UniqueConstraint("job_number", "step_number", name="job_checkpoints_step"),
)

checkpoint_permissions = _numbered(
    "checkpoint_permissions",
    Column("model", String(MAX_MODEL_LENGTH), nullable=False),
    Column("project_id", String(128), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    UniqueConstraint("model", "project_id", name="checkpoint_permissions_project"),
)

evals = _numbered(
    "evals",
    _project(),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("name", String(256), nullable=False),
    Column("metadata", _Json),
    Column("data_source_config", _Json, nullable=False),
    Column("testing_criteria", _Json, nullable=False),
)

eval_runs = _numbered(
    "eval_runs",
    _project(),
    Column("created_at", UtcDateTime, nullable=False),
    Column("eval_id", ForeignKey("evals.id"), nullable=False, index=True),
    Column(
        "state",
        String(16),
        CheckConstraint(
            "state IN ('queued', 'in_progress', 'completed', 'canceled', 'failed')", name="eval_runs_state"
        ),
        nullable=False,
        index=True,
    ),
    # the request
    Column("key_id", String(64)),
    Column("name", String(256), nullable=False),
    Column("metadata", _Json),
    Column("data_source", _Json, nullable=False),
    Column("model", String(MAX_MODEL_LENGTH), nullable=False),  # the version that is asked; empty: none is
    Column("size_bytes", BigInteger, nullable=False),  # of its items
    # the process that works on it
    Column("token", Integer, nullable=False),  # grows with each claim; a write with an older one is refused
    Column("worker", String(128)),
    Column("lease_until", UtcDateTime),
    Column("taken_at", UtcDateTime),
    # the progress
    Column("total", Integer, nullable=False),
    Column("passed", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("errored", Integer, nullable=False),
    Column("per_criterion", _Json, nullable=False),
    Column("per_model", _Json, nullable=False),
    # the outcome
    Column("finished_at", UtcDateTime),
    Column("error", _Json),
)

eval_items = _numbered(
    "eval_items",
    Column("run_number", ForeignKey("eval_runs.number"), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("position", Integer, nullable=False),  # in the run's data source, from 0
    Column("item", _Json, nullable=False),
    Column("answer", _Json),  # the answer that the data source has for it; NULL: none
    Column("status", String(8), nullable=False),  # pending, pass, fail, error
    Column("sample", _Json),
    Column("results", _Json),
    Index("eval_items_of", "run_number", "status", "number"),
)

# Holds prompt and answers itself: stored answers may be gone before it.
feedback = _numbered(
    "feedback",
    _project(),
    Column("created_at", UtcDateTime, nullable=False, index=True),
    Column("kind", String(16), nullable=False),
    Column("rating", String(8)),
    Column("correction", _Json),
    Column("comment", Text),
    Column("metadata", _Json),
    Column("prompt", _Json, nullable=False),
    Column("tools", _Json, nullable=False),
    Column("answers", _Json, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Index("feedback_newest", "project", "number"),
)


def mint(prefix: str) -> str:
    """Return a new id in OpenAI's form: ``prefix``, such as ``ftjob-``, and 24 random characters."""
    return prefix + "".join(secrets.choice(_ID_CHARACTERS) for _ in range(24))


def row_reader(kind: type[T]) -> Callable[[Row[Any]], T]:
    """Return a function that makes a ``kind`` of a row: a field from the column of its name, checked and converted."""
    adapter = TypeAdapter(kind)
    return lambda row: adapter.validate_python(row._asdict())
