"""How far a run's events were passed on: kept with the job, so that none is passed on twice."""

import sqlalchemy as sa
from alembic import op

revision = "t0002"
down_revision = "t0001"


def upgrade() -> None:
    """Add the column; runs that began before are passed on from their start."""
    op.add_column("jobs", sa.Column("events_position", sa.BigInteger, nullable=False, server_default="0"))
