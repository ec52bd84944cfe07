"""What a job used, how much of it was charged to an account, and the key that created it."""

import sqlalchemy as sa
from alembic import op

revision = "t0006"
down_revision = "t0005"


def upgrade() -> None:
    """Add the columns; what jobs of older releases have used is not charged."""
    op.add_column("jobs", sa.Column("key_id", sa.String(64)))
    op.add_column("jobs", sa.Column("trained_seconds", sa.Float, nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("charged_seconds", sa.Float, nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("charged_tokens", sa.BigInteger, nullable=False, server_default="0"))
    op.execute("UPDATE jobs SET charged_tokens = trained_tokens WHERE trained_tokens IS NOT NULL")
