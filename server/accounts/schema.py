"""The tables of accounts: usage by day, the audit log, answers for repeated requests, limits.

The key of a caller without an API key, as on a server without keys, is the empty text: NULL could be no part of a
primary key.
"""

from pathlib import Path
from typing import Final

from sqlalchemy import CHAR, JSON, BigInteger, Column, Date, Float, Integer, LargeBinary, MetaData, String, Table, Text

from adapters.storage.database import UtcDateTime

VERSION_TABLE: Final = "alembic_version_accounts"
"""Alembic's table of the revision of these tables."""

MIGRATIONS: Final = Path(__file__).parent / "migrations"

MAX_IDEMPOTENCY_KEY: Final = 255

metadata: Final = MetaData()

usage_rows = Table(
    "usage",
    metadata,
    Column("day", Date, primary_key=True),  # UTC
    Column("key_id", String(64), primary_key=True),
    Column("project", String(128), primary_key=True),
    Column("adapter", String(128), primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("training_tokens", BigInteger, nullable=False),
    Column("training_seconds", Float, nullable=False),
)

usage_writers = Table(
    "usage_writers",
    metadata,
    Column("id", CHAR(32), primary_key=True),  # one life of a server
    Column("sequence", BigInteger, nullable=False),  # of the last batch that this server wrote
    Column("written_at", UtcDateTime, nullable=False),
)

audit_rows = Table(
    "audit_log",
    metadata,
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("at", UtcDateTime, nullable=False),
    Column("key_id", String(64), nullable=False),
    Column("project", String(128), nullable=False),
    Column("address", String(64), nullable=False),
    Column("action", Text, nullable=False),
    Column("parameters", JSON, nullable=False),
    Column("status", Integer, nullable=False),
    Column("result", Text, nullable=False),
    Column("request_id", String(128), nullable=False),
    Column("previous_hash", CHAR(64), nullable=False),
    Column("hash", CHAR(64), nullable=False),
)

kept_answers = Table(
    "idempotency_keys",
    metadata,
    Column("key_id", String(64), primary_key=True),
    Column("idempotency_key", String(MAX_IDEMPOTENCY_KEY), primary_key=True),
    Column("created_at", UtcDateTime, nullable=False, index=True),
    Column("request_hash", CHAR(64)),  # NULL until the request is answered, as the columns below
    Column("status", Integer),
    Column("headers", JSON),
    Column("body", LargeBinary),
)

account_limits = Table(
    "account_limits",
    metadata,
    Column("kind", String(8), primary_key=True),  # key or project
    Column("id", String(128), primary_key=True),
    Column("limits", JSON, nullable=False),
)
