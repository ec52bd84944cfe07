from __future__ import annotations

import pytest
from sqlalchemy import insert
from sqlalchemy.exc import IntegrityError

from adapters.storage.database import Database
from trainer.schema import jobs


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
