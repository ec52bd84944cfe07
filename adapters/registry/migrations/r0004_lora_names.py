"""Names that vLLM's load call gave adapters, and which versions its loads in place published."""

import sqlalchemy as sa
from alembic import op

revision = "r0004"
down_revision = "r0003"


def upgrade() -> None:
    """Add the columns; adapters that exist are called by their own names, and no version was loaded in place."""
    op.add_column("adapters", sa.Column("lora_name", sa.String(256)))
    op.create_index("adapters_lora_name", "adapters", ["lora_name"], unique=True)
    op.add_column("versions", sa.Column("is_in_place", sa.Boolean, nullable=False, server_default=sa.false()))
