"""The verdict on a job."""

import sqlalchemy as sa
from alembic import op

revision = "t0009"
down_revision = "t0008"


def upgrade() -> None:
    """Add the column; jobs of older releases have no verdict."""
    op.add_column("jobs", sa.Column("verdict", sa.JSON))
