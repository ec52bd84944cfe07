"""The project that each file, upload and job belongs to."""

import sqlalchemy as sa
from alembic import op

revision = "t0004"
down_revision = "t0003"


def upgrade() -> None:
    """Add the columns; what exists belongs to the project "default"."""
    for table in ("files", "uploads", "jobs"):
        op.add_column(table, sa.Column("project", sa.String(64), nullable=False, server_default="default"))
