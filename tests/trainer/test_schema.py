from __future__ import annotations

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, insert
from sqlalchemy.exc import IntegrityError

from adapters.storage.database import Database
from trainer.records import Records
from trainer.schema import VERSION_TABLE, jobs, metadata


async def test_the_migrations_make_the_tables_that_the_code_expects(records: Records, database: Database):
    def differences(connection: Connection) -> list[object]:
        def is_ours(_object: object, name: str | None, kind: str, *_: object) -> bool:
            return kind != "table" or name in metadata.tables

        options = {"version_table": VERSION_TABLE, "include_object": is_ours}
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))

    async with database.read() as connection:
        assert await connection.run_sync(differences) == []


async def test_the_database_itself_knows_the_states(training_file: str, database: Database):
    row = {
        "id": "ftjob-x",
        "created_at": None,
        "state": "dreaming",
        "organization_id": "org",
        "model": "base",
        "training_file": training_file,
        "method": {},
        "seed": 0,
        "extension": {},
        "token": 0,
        "deaths": 0,
        "result_files": [],
    }
    with pytest.raises(IntegrityError):
        async with database.write() as connection:
            await connection.execute(insert(jobs).values(row))
