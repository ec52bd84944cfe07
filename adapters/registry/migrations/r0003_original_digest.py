"""What was uploaded, where it had to be compiled to be served."""

import sqlalchemy as sa
from alembic import op

revision = "r0003"
down_revision = "r0002"


def upgrade() -> None:
    """Add the column; versions that were published before are served as they came."""
    op.add_column("versions", sa.Column("original_digest", sa.String(64)))
