"""The project that each batch belongs to."""

import sqlalchemy as sa
from alembic import op

revision = "b0002"
down_revision = "b0001"


def upgrade() -> None:
    """Add the column; batches that exist belong to the project "default"."""
    op.add_column("batches", sa.Column("project", sa.String(64), nullable=False, server_default="default"))
