"""The registry's tables.

Rows of ``adapters``, ``versions``, ``aliases`` and ``fine_tuned_names`` are only marked as deleted, so that version
numbers, version ids, alias generations and fine-tuned names are never used twice.
"""

from typing import Final

import sqlalchemy as sa

from adapters.names import (
    DEFAULT_PROJECT,
    MAX_FINE_TUNED_LENGTH,
    MAX_LORA_NAME_LENGTH,
    MAX_NAME_LENGTH,
    MAX_PROJECT_LENGTH,
)
from adapters.storage.database import UtcDateTime

VERSION_TABLE: Final = "alembic_version_adapters"
"""Alembic's table with the last migration applied to these tables."""

metadata: Final = sa.MetaData()

_Id = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # SQLite numbers only INTEGER keys by itself

clock = sa.Table(
    "clock",
    metadata,
    sa.Column(
        "id", sa.Integer, sa.CheckConstraint("id = 1", name="clock_has_one_row"), primary_key=True, autoincrement=False
    ),
    sa.Column("revision", sa.BigInteger, nullable=False),
    comment="One row. Each write transaction raises it first, which also lets writers in one at a time.",
)

revisions = sa.Table(
    "revisions",
    metadata,
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("token", sa.String(16), nullable=False, comment="Random: after a restore, a number has another one"),
    comment="The last values of the clock.",
)

installation = sa.Table(
    "installation",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True, comment="One row: tells whose blobs a store holds"),
)

adapters = sa.Table(
    "adapters",
    metadata,
    sa.Column("id", _Id, primary_key=True, autoincrement=True),
    sa.Column("name", sa.String(MAX_NAME_LENGTH), nullable=False, unique=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("next_version", sa.Integer, nullable=False),
    sa.Column(
        "revision", sa.BigInteger, nullable=False, index=True, comment="Clock of the last change to any of its rows"
    ),
    sa.Column("deleted_at", UtcDateTime),
    sa.Column("lora_name", sa.String(MAX_LORA_NAME_LENGTH), comment="NULL: called by its name alone"),
    sa.Column("project", sa.String(MAX_PROJECT_LENGTH), nullable=False, server_default=DEFAULT_PROJECT),
    sa.Index("adapters_lora_name", "lora_name", unique=True),
    sqlite_autoincrement=True,
)

shares = sa.Table(
    "shares",
    metadata,
    sa.Column("adapter_id", sa.ForeignKey("adapters.id"), primary_key=True),
    sa.Column("project", sa.String(MAX_PROJECT_LENGTH), primary_key=True, comment="May use and read the adapter"),
)

versions = sa.Table(
    "versions",
    metadata,
    sa.Column("id", _Id, primary_key=True, autoincrement=True, comment="Never reused: the engine knows it by this"),
    sa.Column("adapter_id", sa.ForeignKey("adapters.id"), nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("base_fingerprint", sa.String(128), nullable=False),
    sa.Column("rank", sa.Integer, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("report", sa.JSON, nullable=False, comment="Results of the checks, and of training"),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("is_pinned", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("deleted_at", UtcDateTime),
    sa.Column("original_digest", sa.String(64), comment="NULL: served as it came"),
    sa.Column("is_in_place", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("quarantine", sa.String(32), comment="Why requests for it are refused; NULL: they are not"),
    sa.UniqueConstraint("adapter_id", "number", name="versions_adapter_number"),
    sqlite_autoincrement=True,
)

fine_tuned_names = sa.Table(
    "fine_tuned_names",
    metadata,
    sa.Column("name", sa.String(MAX_FINE_TUNED_LENGTH), primary_key=True),
    sa.Column("version_id", sa.ForeignKey("versions.id"), nullable=False, index=True),
)

aliases = sa.Table(
    "aliases",
    metadata,
    sa.Column("adapter_id", sa.ForeignKey("adapters.id"), primary_key=True),
    sa.Column("name", sa.String(MAX_NAME_LENGTH), primary_key=True),
    sa.Column("version", sa.Integer, comment="NULL: deleted; the generation goes on"),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
    sa.Column("require", sa.String(16), comment="The verdict that a version needs; NULL: none"),
)

alias_moves = sa.Table(
    "alias_moves",
    metadata,
    sa.Column("id", _Id, primary_key=True, autoincrement=True),
    sa.Column("adapter_id", sa.ForeignKey("adapters.id"), nullable=False),
    sa.Column("alias", sa.String(MAX_NAME_LENGTH), nullable=False),
    sa.Column("from_version", sa.Integer, comment="NULL: the alias was created"),
    sa.Column("to_version", sa.Integer, comment="NULL: the alias was deleted"),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("is_rollback", sa.Boolean, nullable=False),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("is_forced", sa.Boolean, nullable=False, server_default=sa.false(), comment="Against the alias's gate"),
    sa.Index("alias_moves_alias", "adapter_id", "alias", "generation", unique=True),
    sqlite_autoincrement=True,
)

rollouts = sa.Table(
    "rollouts",
    metadata,
    sa.Column("id", _Id, primary_key=True, autoincrement=True, comment="Never reused: sticky sides depend on it"),
    sa.Column("adapter_id", sa.ForeignKey("adapters.id"), nullable=False),
    sa.Column("alias", sa.String(MAX_NAME_LENGTH), nullable=False),
    sa.Column("version", sa.Integer, nullable=False, comment="What the alias points to"),
    sa.Column("candidate", sa.Integer, nullable=False),
    sa.Column("weight", sa.Integer, nullable=False, comment="Of 10,000"),
    sa.Column("plan", sa.JSON, nullable=False),
    sa.Column("state", sa.String(16), nullable=False, comment="Of those of an alias, one at most is active"),
    sa.Column("reason", sa.JSON(none_as_null=True), comment="NULL: active, or promoted by its caller"),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("good_before", sa.BigInteger, nullable=False),
    sa.Column("key_id", sa.String(MAX_NAME_LENGTH)),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
    sa.Index("rollouts_alias", "adapter_id", "alias"),
    sqlite_autoincrement=True,
)

rollout_tallies = sa.Table(
    "rollout_tallies",
    metadata,
    sa.Column("rollout_id", sa.ForeignKey("rollouts.id"), primary_key=True),
    sa.Column("side", sa.String(16), primary_key=True),
    sa.Column("numbers", sa.JSON, nullable=False, comment="Sums of all servers"),
)
