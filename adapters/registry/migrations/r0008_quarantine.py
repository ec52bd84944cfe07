"""Why a version is quarantined, kept across restarts and known to all servers of the database."""

import sqlalchemy as sa
from alembic import op

revision = "r0008"
down_revision = "r0007"


def upgrade() -> None:
    """Add the column; no version is quarantined."""
    op.add_column("versions", sa.Column("quarantine", sa.String(32)))
