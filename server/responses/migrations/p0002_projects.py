"""Responses belong to a project, no longer to the key that made them."""

import sqlalchemy as sa
from alembic import op

revision = "p0002"
down_revision = "p0001"


def upgrade() -> None:
    """Replace the column; responses that exist belong to the project "default", as all keys did."""
    op.add_column("responses", sa.Column("project", sa.String(64), nullable=False, server_default="default"))
    op.drop_column("responses", "key_id")
