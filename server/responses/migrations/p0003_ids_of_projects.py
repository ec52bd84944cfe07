"""An id of a response is unique within its project: callers choose ids, and those of two projects may be the same."""

import sqlalchemy as sa
from alembic import op

revision = "p0003"
down_revision = "p0002"


def upgrade() -> None:
    """Make the table anew, because SQLite drops no constraint without a name; the responses stay, in their order."""
    op.drop_index("ix_responses_created_at", "responses")
    op.rename_table("responses", "responses_before")
    op.create_table(
        "responses",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(128), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, index=True),
        sa.Column("project", sa.String(64), nullable=False, server_default="default"),
        sa.Column("input", sa.JSON, nullable=False),
        sa.Column("body", sa.JSON, nullable=False),
        sa.UniqueConstraint("project", "id", name="responses_project_id"),
        sqlite_autoincrement=True,
    )
    columns = "id, created_at, project, input, body"
    op.execute(f"INSERT INTO responses ({columns}) SELECT {columns} FROM responses_before ORDER BY number")  # noqa: S608
    op.drop_table("responses_before")
    op.create_index("responses_newest", "responses", ["project", "number"])
