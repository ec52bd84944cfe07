"""Rollouts with what they counted, the verdict that an alias demands, and moves that were forced against it."""

import sqlalchemy as sa
from alembic import op

revision = "r0009"
down_revision = "r0008"

_Id = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_Moment = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Add the columns and tables; no alias demands a verdict, and no move was forced."""
    op.add_column("aliases", sa.Column("require", sa.String(16)))
    op.add_column("alias_moves", sa.Column("is_forced", sa.Boolean, nullable=False, server_default=sa.false()))
    op.create_table(
        "rollouts",
        sa.Column("id", _Id, primary_key=True, autoincrement=True),
        sa.Column("adapter_id", _Id, sa.ForeignKey("adapters.id"), nullable=False),
        sa.Column("alias", sa.String(96), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("candidate", sa.Integer, nullable=False),
        sa.Column("weight", sa.Integer, nullable=False),
        sa.Column("plan", sa.JSON, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reason", sa.JSON),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("good_before", sa.BigInteger, nullable=False),
        sa.Column("key_id", sa.String(96)),
        sa.Column("created_at", _Moment, nullable=False),
        sa.Column("updated_at", _Moment, nullable=False),
        sa.Index("rollouts_alias", "adapter_id", "alias"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "rollout_tallies",
        sa.Column("rollout_id", _Id, sa.ForeignKey("rollouts.id"), primary_key=True),
        sa.Column("side", sa.String(16), primary_key=True),
        sa.Column("numbers", sa.JSON, nullable=False),
    )
