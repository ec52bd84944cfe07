"""Fine-tuned names: what training jobs call the versions they made."""

import sqlalchemy as sa
from alembic import op

revision = "r0002"
down_revision = "r0001"

_Id = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "fine_tuned_names",
        sa.Column("name", sa.String(512), primary_key=True),
        sa.Column("version_id", _Id, sa.ForeignKey("versions.id"), nullable=False, index=True),
    )
