"""The migrations of each package make the tables that its code expects, on both databases, and all of them together."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from types import ModuleType

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection

import adapters.registry.schema as registry_schema
import server.access.schema as access_schema
import server.accounts.schema as accounts_schema
import server.batches.schema as batches_schema
import server.responses.schema as responses_schema
import trainer.schema as trainer_schema
from adapters.storage.database import Database
from tests.postgres import on_both_databases

SCHEMAS = (registry_schema, access_schema, accounts_schema, batches_schema, responses_schema, trainer_schema)


def differences(connection: Connection, schema: ModuleType) -> list[object]:
    """Return how the database's tables differ from those of ``schema``, but for comments, which no migration writes."""

    def is_ours(_object: object, name: str | None, kind: str, *_: object) -> bool:
        return kind != "table" or name in schema.metadata.tables

    options = {"version_table": schema.VERSION_TABLE, "include_object": is_ours}
    found = compare_metadata(MigrationContext.configure(connection, opts=options), schema.metadata)
    changes = chain.from_iterable(each if isinstance(each, list) else [each] for each in found)
    return [change for change in changes if "comment" not in change[0]]


@on_both_databases
async def test_the_migrations_make_the_tables_that_the_code_expects(database_url: str) -> None:
    async with Database.open(database_url) as database:
        for schema in SCHEMAS:
            migrations = Path(str(schema.__file__)).parent / "migrations"
            for _ in range(2):  # the second time changes nothing
                await database.migrate(migrations, schema.VERSION_TABLE)
            async with database.read() as connection:
                assert await connection.run_sync(differences, schema) == []
