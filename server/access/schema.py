"""The table of keys. Rows are never removed: once a key existed, requests without one stay refused."""

from typing import Final

from sqlalchemy import CHAR, JSON, Column, MetaData, String, Table

from adapters.storage.database import UtcDateTime

VERSION_TABLE: Final = "alembic_version_keys"
"""The table in which Alembic records the migrations of this one."""

metadata: Final = MetaData()

keys = Table(
    "api_keys",
    metadata,
    Column("id", String(8), primary_key=True),
    Column("name", String(96), nullable=False),
    Column("scopes", JSON, nullable=False),
    Column("sha256", CHAR(64), nullable=False),
    Column("last4", CHAR(4), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("revoked_at", UtcDateTime),
    Column("project", String(64), nullable=False, server_default="default"),
    Column("adapters", JSON(none_as_null=True)),  # NULL: all adapters
    Column("expires_at", UtcDateTime),
    Column("last_used_at", UtcDateTime),
)
