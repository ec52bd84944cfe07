"""Keys get a project, patterns of adapters, an end and a moment of last use."""

import sqlalchemy as sa
from alembic import op

revision = "k0002"
down_revision = "k0001"


def upgrade() -> None:
    """Add the columns; keys that exist belong to the project "default" and may use all adapters."""
    op.add_column("api_keys", sa.Column("project", sa.String(64), nullable=False, server_default="default"))
    op.add_column("api_keys", sa.Column("adapters", sa.JSON(none_as_null=True)))
    op.add_column("api_keys", sa.Column("expires_at", sa.DateTime(timezone=True)))
    op.add_column("api_keys", sa.Column("last_used_at", sa.DateTime(timezone=True)))
