"""Evals, their runs, and the items of those."""

import sqlalchemy as sa
from alembic import op

revision = "t0007"
down_revision = "t0006"

_Number = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_Moment = sa.DateTime(timezone=True)
_Id = sa.String(40)


def _numbered(name: str, *items: sa.Column | sa.CheckConstraint) -> None:  # type: ignore[type-arg]
    number = sa.Column("number", _Number, primary_key=True, autoincrement=True)
    identity = sa.Column("id", _Id, nullable=False, unique=True)
    op.create_table(name, number, identity, *items, sqlite_autoincrement=True)


def _project() -> sa.Column[str]:
    return sa.Column("project", sa.String(64), nullable=False, server_default="default")


def upgrade() -> None:
    """Create the tables."""
    _numbered(
        "evals",
        _project(),
        sa.Column("created_at", _Moment, nullable=False),
        sa.Column("updated_at", _Moment, nullable=False),
        sa.Column("name", sa.String(256), nullable=False),
        sa.Column("metadata", sa.JSON),
        sa.Column("data_source_config", sa.JSON, nullable=False),
        sa.Column("testing_criteria", sa.JSON, nullable=False),
    )
    _numbered(
        "eval_runs",
        _project(),
        sa.Column("created_at", _Moment, nullable=False),
        sa.Column("eval_id", _Id, sa.ForeignKey("evals.id"), nullable=False, index=True),
        sa.Column("state", sa.String(16), nullable=False, index=True),
        sa.Column("key_id", sa.String(64)),
        sa.Column("name", sa.String(256), nullable=False),
        sa.Column("metadata", sa.JSON),
        sa.Column("data_source", sa.JSON, nullable=False),
        sa.Column("model", sa.String(512), nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("token", sa.Integer, nullable=False),
        sa.Column("worker", sa.String(128)),
        sa.Column("lease_until", _Moment),
        sa.Column("taken_at", _Moment),
        *(sa.Column(name, sa.Integer, nullable=False) for name in ("total", "passed", "failed", "errored")),
        sa.Column("per_criterion", sa.JSON, nullable=False),
        sa.Column("per_model", sa.JSON, nullable=False),
        sa.Column("finished_at", _Moment),
        sa.Column("error", sa.JSON),
        sa.CheckConstraint(
            "state IN ('queued', 'in_progress', 'completed', 'canceled', 'failed')", name="eval_runs_state"
        ),
    )
    _numbered(
        "eval_items",
        sa.Column("run_number", _Number, sa.ForeignKey("eval_runs.number"), nullable=False),
        sa.Column("created_at", _Moment, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("item", sa.JSON, nullable=False),
        sa.Column("answer", sa.JSON),
        sa.Column("status", sa.String(8), nullable=False),
        sa.Column("sample", sa.JSON),
        sa.Column("results", sa.JSON),
    )
    op.create_index("eval_items_of", "eval_items", ["run_number", "status", "number"])
