"""The migrations of each package make the tables that its code expects, on both databases, and all of them together."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, Table, insert, select

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


NOW = datetime(2026, 11, 1, tzinfo=UTC)
FILE = {"id": "file-1", "created_at": NOW, "filename": "f", "purpose": "fine-tune", "status": "processed"}
JOB = {"id": "ftjob-1", "created_at": NOW, "state": "succeeded", "organization_id": "o", "model": "base"}
ADAPTER = {"id": 1, "name": "sql", "created_at": NOW, "next_version": 2, "revision": 0}
MOVE = {"adapter_id": 1, "alias": "stable", "to_version": 1, "generation": 1, "is_rollback": False, "at": NOW}
OLD_ROWS: list[tuple[ModuleType, str, list[tuple[Table, Mapping[str, Any]]]]] = [
    (
        registry_schema,
        "r0008",
        [
            (registry_schema.adapters, ADAPTER),
            (
                registry_schema.aliases,
                {"adapter_id": 1, "name": "stable", "version": 1, "generation": 1, "updated_at": NOW},
            ),
            (registry_schema.alias_moves, MOVE),
        ],
    ),
    (
        trainer_schema,
        "t0004",
        [
            (trainer_schema.files, {**FILE, "size_bytes": 1, "sha256": "0" * 64}),
            (
                trainer_schema.jobs,
                {**JOB, "training_file": "file-1", "method": {}, "seed": 1, "extension": {}, "token": 1, "deaths": 0}
                | {"result_files": [], "trained_tokens": 7},
            ),
        ],
    ),
    (
        trainer_schema,
        "t0006",
        [(trainer_schema.files, {**FILE, "size_bytes": 1, "sha256": "0" * 64})],
    ),
    (
        trainer_schema,
        "t0008",
        [
            (trainer_schema.files, {**FILE, "size_bytes": 1, "sha256": "0" * 64}),
            (
                trainer_schema.jobs,
                {**JOB, "training_file": "file-1", "method": {}, "seed": 1, "extension": {}, "token": 1, "deaths": 0}
                | {"result_files": [], "trained_tokens": 7},
            ),
        ],
    ),
    (
        responses_schema,
        "p0002",
        [
            (
                responses_schema.responses,
                {"id": "resp_1", "project": "acme", "created_at": NOW, "input": [], "body": {"a": 1}},
            )
        ],
    ),
]


@on_both_databases
@pytest.mark.parametrize(("schema", "release", "rows"), OLD_ROWS, ids=lambda value: str(value)[:20])
async def test_rows_of_an_older_release_are_there_after_its_upgrade(
    schema: ModuleType, release: str, rows: list[tuple[Table, Mapping[str, Any]]], database_url: str, tmp_path: Path
) -> None:
    migrations = Path(str(schema.__file__)).parent / "migrations"
    old = tmp_path / "migrations"
    old.mkdir()
    for path in migrations.glob("*.py"):
        if path.name[:5] <= release:
            shutil.copy(path, old)
    async with Database.open(database_url) as database:
        await database.migrate(old, schema.VERSION_TABLE)
        async with database.write() as connection:
            for table, row in rows:
                await connection.execute(insert(table).values(row))
        await database.migrate(migrations, schema.VERSION_TABLE)
        async with database.read() as connection:
            for table, row in rows:
                (found,) = (await connection.execute(select(table))).mappings()
                assert {name: found[name] for name in row} == dict(row)
            assert await connection.run_sync(differences, schema) == []
