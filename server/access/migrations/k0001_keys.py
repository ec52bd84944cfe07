"""The table of keys."""

import sqlalchemy as sa
from alembic import op

revision = "k0001"
down_revision = None

_Moment = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(8), primary_key=True),
        sa.Column("name", sa.String(96), nullable=False),
        sa.Column("scopes", sa.JSON, nullable=False),
        sa.Column("sha256", sa.CHAR(64), nullable=False),
        sa.Column("last4", sa.CHAR(4), nullable=False),
        sa.Column("created_at", _Moment, nullable=False),
        sa.Column("revoked_at", _Moment),
    )
