"""The registry: clock, adapters, versions, aliases, alias moves."""

import sqlalchemy as sa
from alembic import op

revision = "r0001"
down_revision = None

_Id = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_Moment = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Create the tables and the clock's row."""
    clock = op.create_table(
        "clock",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.CheckConstraint("id = 1", name="clock_has_one_row"),
    )
    op.bulk_insert(clock, [{"id": 1, "revision": 0}])
    op.create_table(
        "adapters",
        sa.Column("id", _Id, primary_key=True, autoincrement=True),
        sa.Column("name", sa.String(96), nullable=False, unique=True),
        sa.Column("created_at", _Moment, nullable=False),
        sa.Column("next_version", sa.Integer, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False, index=True),
        sa.Column("deleted_at", _Moment),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "versions",
        sa.Column("id", _Id, primary_key=True, autoincrement=True),
        sa.Column("adapter_id", _Id, sa.ForeignKey("adapters.id"), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("base_fingerprint", sa.String(128), nullable=False),
        sa.Column("rank", sa.Integer, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("report", sa.JSON, nullable=False),
        sa.Column("created_at", _Moment, nullable=False),
        sa.Column("is_pinned", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("deleted_at", _Moment),
        sa.UniqueConstraint("adapter_id", "number", name="versions_adapter_number"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "aliases",
        sa.Column("adapter_id", _Id, sa.ForeignKey("adapters.id"), primary_key=True),
        sa.Column("name", sa.String(96), primary_key=True),
        sa.Column("version", sa.Integer),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("updated_at", _Moment, nullable=False),
    )
    op.create_table(
        "alias_moves",
        sa.Column("id", _Id, primary_key=True, autoincrement=True),
        sa.Column("adapter_id", _Id, sa.ForeignKey("adapters.id"), nullable=False),
        sa.Column("alias", sa.String(96), nullable=False),
        sa.Column("from_version", sa.Integer),
        sa.Column("to_version", sa.Integer),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("is_rollback", sa.Boolean, nullable=False),
        sa.Column("at", _Moment, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("alias_moves_alias", "alias_moves", ["adapter_id", "alias", "generation"], unique=True)
