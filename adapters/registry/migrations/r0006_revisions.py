"""The revisions of the registry with a random token each, by which a restored database is noticed."""

import secrets

import sqlalchemy as sa
from alembic import op

revision = "r0006"
down_revision = "r0005"


def upgrade() -> None:
    """Add the table, with a token for the present revision."""
    table = op.create_table(
        "revisions",
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("token", sa.String(16), nullable=False),
    )
    present = op.get_bind().execute(sa.text("SELECT revision FROM clock")).scalar_one()
    op.bulk_insert(table, [{"number": present, "token": secrets.token_hex(8)}])
