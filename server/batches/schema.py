"""The table of batches. The files of a batch are rows of the trainer's table, which has its own migrations."""

from pathlib import Path
from typing import Final

from sqlalchemy import JSON, BigInteger, CheckConstraint, Column, Integer, MetaData, String, Table

from adapters.names import DEFAULT_PROJECT, MAX_PROJECT_LENGTH
from adapters.storage.database import UtcDateTime
from trainer.schema import MAX_ID_LENGTH, MAX_MODEL_LENGTH

VERSION_TABLE: Final = "alembic_version_batches"
"""Alembic's table of the revision of this table."""

MIGRATIONS: Final = Path(__file__).parent / "migrations"

metadata: Final = MetaData()

_Json = JSON(none_as_null=True)

batches = Table(
    "batches",
    metadata,
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("id", String(MAX_ID_LENGTH), nullable=False, unique=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column(
        "state",
        String(16),
        CheckConstraint(
            "state IN ('validating', 'in_progress', 'finalizing', 'completed', 'failed', 'expired', "
            "'cancelling', 'cancelled')",
            name="batches_state",
        ),
        nullable=False,
        index=True,
    ),
    # the request
    Column("endpoint", String(64), nullable=False),
    Column("input_file_id", String(MAX_ID_LENGTH), nullable=False),
    Column("metadata", _Json),
    Column("output_expires_after_s", Integer),
    Column("key_id", String(8)),
    Column("project", String(MAX_PROJECT_LENGTH), nullable=False, server_default=DEFAULT_PROJECT),
    Column("expires_at", UtcDateTime, nullable=False),
    # the process that works on it
    Column("token", Integer, nullable=False),  # grows with each claim; a write with an older one is refused
    Column("worker", String(128)),
    Column("lease_until", UtcDateTime),
    # the progress
    Column("model", String(MAX_MODEL_LENGTH)),
    Column("total", Integer, nullable=False),
    Column("completed", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    # the outcome
    Column("output_file_id", String(MAX_ID_LENGTH)),
    Column("error_file_id", String(MAX_ID_LENGTH)),
    Column("errors", _Json),
    # when it came into a state: the state's name, "_at"
    Column("in_progress_at", UtcDateTime),
    Column("finalizing_at", UtcDateTime),
    Column("completed_at", UtcDateTime),
    Column("failed_at", UtcDateTime),
    Column("expired_at", UtcDateTime),
    Column("cancelling_at", UtcDateTime),
    Column("cancelled_at", UtcDateTime),
    sqlite_autoincrement=True,
)
