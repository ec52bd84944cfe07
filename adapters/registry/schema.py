"""The registry's tables.

Rows of ``adapters``, ``versions``, ``aliases`` and ``fine_tuned_names`` are only marked as deleted, so that version
numbers, version ids, alias generations and fine-tuned names are never used twice.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
)

from adapters.names import MAX_FINE_TUNED_LENGTH, MAX_NAME_LENGTH
from adapters.storage.database import UtcDateTime

VERSION_TABLE: Final = "alembic_version_adapters"
"""Alembic's table with the last migration applied to these tables."""

metadata: Final = MetaData()

_Id = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers only INTEGER keys by itself

clock = Table(
    "clock",
    metadata,
    Column(
        "id",
        Integer,
        CheckConstraint("id = 1", name="clock_has_one_row"),
        primary_key=True,
        autoincrement=False,
    ),
    Column("revision", BigInteger, nullable=False),
    comment="One row. Each write transaction raises it first, which also lets writers in one at a time.",
)

adapters = Table(
    "adapters",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("name", String(MAX_NAME_LENGTH), nullable=False, unique=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("next_version", Integer, nullable=False),
    Column(
        "revision",
        BigInteger,
        nullable=False,
        index=True,
        comment="Clock of the last change to any of its rows",
    ),
    Column("deleted_at", UtcDateTime),
    sqlite_autoincrement=True,
)

versions = Table(
    "versions",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True, comment="Never reused: the engine knows it by this"),
    Column("adapter_id", ForeignKey("adapters.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("base_fingerprint", String(128), nullable=False),
    Column("rank", Integer, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("source", Text, nullable=False),
    Column("report", JSON, nullable=False, comment="Results of the checks, and of training"),
    Column("created_at", UtcDateTime, nullable=False),
    Column("is_pinned", Boolean, nullable=False, server_default=false()),
    Column("deleted_at", UtcDateTime),
    Column("original_digest", String(64), comment="NULL: served as it came"),
    UniqueConstraint("adapter_id", "number", name="versions_adapter_number"),
    sqlite_autoincrement=True,
)

fine_tuned_names = Table(
    "fine_tuned_names",
    metadata,
    Column("name", String(MAX_FINE_TUNED_LENGTH), primary_key=True),
    Column("version_id", ForeignKey("versions.id"), nullable=False, index=True),
)

aliases = Table(
    "aliases",
    metadata,
    Column("adapter_id", ForeignKey("adapters.id"), primary_key=True),
    Column("name", String(MAX_NAME_LENGTH), primary_key=True),
    Column("version", Integer, comment="NULL: deleted; the generation goes on"),
    Column("generation", Integer, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
)

alias_moves = Table(
    "alias_moves",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True),
    Column("adapter_id", ForeignKey("adapters.id"), nullable=False),
    Column("alias", String(MAX_NAME_LENGTH), nullable=False),
    Column("from_version", Integer, comment="NULL: the alias was created"),
    Column("to_version", Integer, comment="NULL: the alias was deleted"),
    Column("generation", Integer, nullable=False),
    Column("is_rollback", Boolean, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Index("alias_moves_alias", "adapter_id", "alias", "generation", unique=True),
    sqlite_autoincrement=True,
)
