"""Where a job can be trained, by the directory that has its files and its base model; and when it was taken last."""

import sqlalchemy as sa
from alembic import op

revision = "t0005"
down_revision = "t0004"


def upgrade() -> None:
    """Add the columns; a job without them is taken by any server of the database, as before."""
    op.add_column("jobs", sa.Column("store", sa.String(32)))
    op.add_column("jobs", sa.Column("base_fingerprint", sa.String(128)))
    op.add_column("jobs", sa.Column("taken_at", sa.DateTime(timezone=True)))
