"""Feedback on answers."""

import sqlalchemy as sa
from alembic import op

revision = "t0008"
down_revision = "t0007"


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "feedback",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(40), nullable=False, unique=True),
        sa.Column("project", sa.String(64), nullable=False, server_default="default"),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, index=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("rating", sa.String(8)),
        sa.Column("correction", sa.JSON),
        sa.Column("comment", sa.Text),
        sa.Column("metadata", sa.JSON),
        sa.Column("prompt", sa.JSON, nullable=False),
        sa.Column("tools", sa.JSON, nullable=False),
        sa.Column("answers", sa.JSON, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("feedback_newest", "feedback", ["project", "number"])
