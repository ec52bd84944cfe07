"""The tables of usage, the audit log, answers for repeated requests, and limits."""

import sqlalchemy as sa
from alembic import op

revision = "c0001"
down_revision = None

_Moment = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Create the tables."""
    counts = ("requests", "prompt_tokens", "completion_tokens", "cached_tokens", "training_tokens")
    op.create_table(
        "usage",
        sa.Column("day", sa.Date, primary_key=True),
        sa.Column("key_id", sa.String(64), primary_key=True),
        sa.Column("project", sa.String(128), primary_key=True),
        sa.Column("adapter", sa.String(128), primary_key=True),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in counts),
        sa.Column("training_seconds", sa.Float, nullable=False),
    )
    op.create_table(
        "usage_writers",
        sa.Column("id", sa.CHAR(32), primary_key=True),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("written_at", _Moment, nullable=False),
    )
    op.create_table(
        "audit_log",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=False),
        sa.Column("at", _Moment, nullable=False),
        sa.Column("key_id", sa.String(64), nullable=False),
        sa.Column("project", sa.String(128), nullable=False),
        sa.Column("address", sa.String(64), nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("parameters", sa.JSON, nullable=False),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("result", sa.Text, nullable=False),
        sa.Column("request_id", sa.String(128), nullable=False),
        sa.Column("previous_hash", sa.CHAR(64), nullable=False),
        sa.Column("hash", sa.CHAR(64), nullable=False),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("key_id", sa.String(64), primary_key=True),
        sa.Column("idempotency_key", sa.String(255), primary_key=True),
        sa.Column("created_at", _Moment, nullable=False, index=True),
        sa.Column("request_hash", sa.CHAR(64)),
        sa.Column("status", sa.Integer),
        sa.Column("headers", sa.JSON),
        sa.Column("body", sa.LargeBinary),
    )
    op.create_table(
        "account_limits",
        sa.Column("kind", sa.String(8), primary_key=True),
        sa.Column("id", sa.String(128), primary_key=True),
        sa.Column("limits", sa.JSON, nullable=False),
    )
