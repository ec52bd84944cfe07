"""The table of batches."""

import sqlalchemy as sa
from alembic import op

revision = "b0001"
down_revision = None

_Moment = sa.DateTime(timezone=True)
_Id = sa.String(40)
_STATES = "'validating', 'in_progress', 'finalizing', 'completed', 'failed', 'expired', 'cancelling', 'cancelled'"
_MOMENTS = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "batches",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("id", _Id, nullable=False, unique=True),
        sa.Column("created_at", _Moment, nullable=False),
        sa.Column("state", sa.String(16), nullable=False, index=True),
        sa.Column("endpoint", sa.String(64), nullable=False),
        sa.Column("input_file_id", _Id, nullable=False),
        sa.Column("metadata", sa.JSON),
        sa.Column("output_expires_after_s", sa.Integer),
        sa.Column("key_id", sa.String(8)),
        sa.Column("expires_at", _Moment, nullable=False),
        sa.Column("token", sa.Integer, nullable=False),
        sa.Column("worker", sa.String(128)),
        sa.Column("lease_until", _Moment),
        sa.Column("model", sa.String(512)),
        sa.Column("total", sa.Integer, nullable=False),
        sa.Column("completed", sa.Integer, nullable=False),
        sa.Column("failed", sa.Integer, nullable=False),
        sa.Column("output_file_id", _Id),
        sa.Column("error_file_id", _Id),
        sa.Column("errors", sa.JSON),
        *(sa.Column(f"{state}_at", _Moment) for state in _MOMENTS),
        sa.CheckConstraint(f"state IN ({_STATES})", name="batches_state"),
        sqlite_autoincrement=True,
    )
