"""Files, jobs, and what jobs leave behind."""

import sqlalchemy as sa
from alembic import op

revision = "t0001"
down_revision = None

_Number = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_Moment = sa.DateTime(timezone=True)
_Id = sa.String(40)
_STATES = "'validating_files', 'queued', 'running', 'pausing', 'paused', 'succeeded', 'failed', 'cancelled'"


def upgrade() -> None:
    """Create the tables."""
    _create_files()
    _create_jobs()
    _create_what_jobs_leave_behind()


def _create_files() -> None:
    op.create_table(
        "files",
        sa.Column("number", _Number, primary_key=True, autoincrement=True),
        sa.Column("id", _Id, nullable=False, unique=True),
        sa.Column("created_at", _Moment, nullable=False),
        sa.Column("filename", sa.String(255), nullable=False),
        sa.Column("purpose", sa.String(32), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("status_details", sa.Text),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("expires_at", _Moment, index=True),
        sa.Column("deleted_at", _Moment),
        sqlite_autoincrement=True,
    )


def _create_jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("number", _Number, primary_key=True, autoincrement=True),
        sa.Column("id", _Id, nullable=False, unique=True),
        sa.Column("created_at", _Moment, nullable=False),
        sa.Column("state", sa.String(16), nullable=False, index=True),
        sa.Column("organization_id", sa.String(64), nullable=False),
        sa.Column("model", sa.String(512), nullable=False),
        sa.Column("training_file", _Id, sa.ForeignKey("files.id"), nullable=False, index=True),
        sa.Column("validation_file", _Id, sa.ForeignKey("files.id"), index=True),
        sa.Column("method", sa.JSON, nullable=False),
        sa.Column("seed", sa.Integer, nullable=False),
        sa.Column("suffix", sa.String(64)),
        sa.Column("metadata", sa.JSON),
        sa.Column("integrations", sa.JSON),
        sa.Column("extension", sa.JSON, nullable=False),
        sa.Column("token", sa.Integer, nullable=False),
        sa.Column("worker", sa.String(128)),
        sa.Column("lease_until", _Moment),
        sa.Column("deaths", sa.Integer, nullable=False),
        sa.Column("estimated_finish", _Moment),
        sa.Column("finished_at", _Moment),
        sa.Column("fine_tuned_model", sa.String(512)),
        sa.Column("trained_tokens", sa.BigInteger),
        sa.Column("result_files", sa.JSON, nullable=False),
        sa.Column("error", sa.JSON),
        sa.CheckConstraint(f"state IN ({_STATES})", name="jobs_state"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "job_metadata",
        sa.Column("job_number", _Number, sa.ForeignKey("jobs.number"), primary_key=True),
        sa.Column("key", sa.String(64), primary_key=True),
        sa.Column("value", sa.String(512), nullable=False),
    )
    op.create_index("job_metadata_pair", "job_metadata", ["key", "value"])


def _create_what_jobs_leave_behind() -> None:
    op.create_table(
        "job_events",
        sa.Column("number", _Number, primary_key=True, autoincrement=True),
        sa.Column("id", _Id, nullable=False, unique=True),
        sa.Column("job_number", _Number, sa.ForeignKey("jobs.number"), nullable=False),
        sa.Column("created_at", _Moment, nullable=False),
        sa.Column("level", sa.String(8), nullable=False),
        sa.Column("type", sa.String(16), nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("data", sa.JSON),
        sqlite_autoincrement=True,
    )
    op.create_index("job_events_of", "job_events", ["job_number", "number"])
    op.create_table(
        "job_checkpoints",
        sa.Column("number", _Number, primary_key=True, autoincrement=True),
        sa.Column("id", _Id, nullable=False, unique=True),
        sa.Column("job_number", _Number, sa.ForeignKey("jobs.number"), nullable=False),
        sa.Column("created_at", _Moment, nullable=False),
        sa.Column("step_number", sa.Integer, nullable=False),
        sa.Column("model", sa.String(512), nullable=False, index=True),
        sa.Column("metrics", sa.JSON, nullable=False),
        sa.UniqueConstraint("job_number", "step_number", name="job_checkpoints_step"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "checkpoint_permissions",
        sa.Column("number", _Number, primary_key=True, autoincrement=True),
        sa.Column("id", _Id, nullable=False, unique=True),
        sa.Column("model", sa.String(512), nullable=False),
        sa.Column("project_id", sa.String(128), nullable=False),
        sa.Column("created_at", _Moment, nullable=False),
        sa.UniqueConstraint("model", "project_id", name="checkpoint_permissions_project"),
        sqlite_autoincrement=True,
    )
