"""The table of stored responses."""

from pathlib import Path
from typing import Final

from sqlalchemy import JSON, BigInteger, Column, Index, Integer, MetaData, String, Table, UniqueConstraint

from adapters.names import DEFAULT_PROJECT, MAX_PROJECT_LENGTH
from adapters.storage.database import UtcDateTime

VERSION_TABLE: Final = "alembic_version_responses"
"""Alembic's table of the revision of this table."""

MIGRATIONS: Final = Path(__file__).parent / "migrations"

MAX_ID_LENGTH: Final = 128

metadata: Final = MetaData()

responses = Table(
    "responses",
    metadata,
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("id", String(MAX_ID_LENGTH), nullable=False),  # callers may choose it
    Column("created_at", UtcDateTime, nullable=False, index=True),
    Column("project", String(MAX_PROJECT_LENGTH), nullable=False, server_default=DEFAULT_PROJECT),
    Column("input", JSON, nullable=False),  # all items that it answers, those of earlier responses included
    Column("body", JSON, nullable=False),
    UniqueConstraint("project", "id", name="responses_project_id"),
    Index("responses_newest", "project", "number"),
    sqlite_autoincrement=True,
)
