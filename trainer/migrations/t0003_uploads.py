"""Uploads in parts."""

import sqlalchemy as sa
from alembic import op

revision = "t0003"
down_revision = "t0002"

_Number = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_Moment = sa.DateTime(timezone=True)
_Id = sa.String(40)


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "uploads",
        sa.Column("number", _Number, primary_key=True, autoincrement=True),
        sa.Column("id", _Id, nullable=False, unique=True),
        sa.Column("created_at", _Moment, nullable=False),
        sa.Column("expires_at", _Moment, nullable=False, index=True),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("filename", sa.String(255), nullable=False),
        sa.Column("purpose", sa.String(32), nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("file_expires_after_s", sa.Integer),
        sa.Column("file_id", _Id),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "upload_parts",
        sa.Column("number", _Number, primary_key=True, autoincrement=True),
        sa.Column("id", _Id, nullable=False, unique=True),
        sa.Column("created_at", _Moment, nullable=False),
        sa.Column("upload_id", _Id, sa.ForeignKey("uploads.id"), nullable=False, index=True),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sqlite_autoincrement=True,
    )
