"""Several processes at one queue, some of which stall past their lease and come back late."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.postgres import on_both_databases, on_postgres
from tests.trainer.conftest import Create
from trainer.jobs.state import JobState
from trainer.records import Records

ROOT = Path(__file__).resolve().parents[3]
TAKER = Path(__file__).with_name("taking_process.py")
NUM_PROCESSES, NUM_JOBS = 4, 40


async def finish_all(
    records: Records, database_url: str, enqueue: Create, environments: Sequence[Mapping[str, str]]
) -> list[dict[str, Any]]:
    """Let a process with each of ``environments`` take jobs until all are finished; return every attempt to finish one.

    Each job must have been finished exactly once.
    """
    ids = [(await enqueue()).id for _ in range(NUM_JOBS)]
    started = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            str(TAKER),
            database_url,
            records.queue.store,
            str(seed),
            env={"PYTHONPATH": str(ROOT), **environment},
            stdout=asyncio.subprocess.PIPE,
        )
        for seed, environment in enumerate(environments)
    ]
    outputs = await asyncio.gather(*(process.communicate() for process in started))
    assert [process.returncode for process in started] == [0] * len(environments)

    finishes = [json.loads(line) for output, _ in outputs for line in output.splitlines()]
    winners = {finish["job"]: finish["token"] for finish in finishes if finish["won"]}
    assert Counter(finish["job"] for finish in finishes if finish["won"]) == Counter(ids)
    for job_id in ids:
        job = await records.jobs.get(job_id)
        assert (job.state, job.fine_tuned_model) == (JobState.SUCCEEDED, f"{job_id}-{winners[job_id]}")
        messages = Counter(event.message for event in (await records.events.list(job_id, limit=1000)).data)
        assert messages["The job has successfully completed"] == 1
        assert len((await records.checkpoints.list(job_id)).data) == 1
    return finishes


@on_both_databases
async def test_each_job_of_four_processes_is_finished_exactly_once(
    records: Records, database_url: str, enqueue: Create
):
    finishes = await finish_all(records, database_url, enqueue, [{}] * NUM_PROCESSES)
    assert any(not finish["won"] for finish in finishes)
    tokens = Counter((finish["job"], finish["token"]) for finish in finishes)
    assert set(tokens.values()) == {1}, "two claims carried one token"


@on_postgres
async def test_workers_whose_clocks_are_hours_apart_finish_each_job_exactly_once(
    records: Records, database_url: str, enqueue: Create
):
    """Leases are measured by the database's clock. libfaketime shifts that of a process, below Python."""
    libfaketime = pytest.importorskip("libfaketime", reason="libfaketime is made for Linux on x86-64")
    (library,) = Path(libfaketime.__file__).parent.rglob("libfaketime.so.1")
    shifted = {"LD_PRELOAD": str(library), "DONT_FAKE_MONOTONIC": "1"}
    clocks = [{}, *({**shifted, "FAKETIME": shift} for shift in ("-1h", "+1h", "+25h"))]
    finishes = await finish_all(records, database_url, enqueue, clocks)
    times = [finish["at"] for finish in finishes]
    assert max(times) - min(times) > 25 * 3600
    assert {finish["lease_s"] for finish in finishes if not finish["won"]} <= {0}, "a lease was taken before its end"
