"""The project that each adapter belongs to, and the projects that it is shared with."""

import sqlalchemy as sa
from alembic import op

revision = "r0007"
down_revision = "r0006"

_Id = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Add the column and the table; adapters that exist belong to the project "default"."""
    op.add_column("adapters", sa.Column("project", sa.String(64), nullable=False, server_default="default"))
    op.create_table(
        "shares",
        sa.Column("adapter_id", _Id, sa.ForeignKey("adapters.id"), primary_key=True),
        sa.Column("project", sa.String(64), primary_key=True),
    )
