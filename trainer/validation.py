"""What becomes of a new job: its files are read line by line, and it is queued or fails with every fault."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from adapters.errors import BlobCorrupt
from trainer.data.faults import LineFault
from trainer.errors import FileNotFound, IllegalTransition
from trainer.jobs.job import Failure, Job, Json
from trainer.records import Records

SHOWN: Final = 5
"""Faults in the error's message; the event has all of them."""


class Validation:
    """Validates the jobs of ``records``, one at a time and in the order of their creation.

    Several processes may validate the same job: the first to finish decides, and all would decide alike.
    """

    def __init__(self, records: Records) -> None:
        self._records = records
        self._asked = asyncio.Event()

    def look(self) -> None:
        """Say that there may be new jobs."""
        self._asked.set()

    async def run(self) -> None:
        """Validate until cancelled: first what a crash left, then new jobs."""
        while True:
            self._asked.clear()
            for job in await self._records.jobs.unvalidated():
                with suppress(IllegalTransition):  # cancelled meanwhile, or decided by another process
                    await self._decide(job)
            await self._asked.wait()

    async def _decide(self, job: Job) -> None:
        files, jobs = self._records.files, self._records.jobs
        ids = {"training_file": job.training_file, "validation_file": job.validation_file}
        try:
            paths = {param: await files.content(file_id) for param, file_id in ids.items() if file_id is not None}
        except (BlobCorrupt, FileNotFound) as gone:
            await jobs.reject(job.id, Failure("file_unreadable", gone.message))
            return
        status, output = await _check(job.method["type"], *paths.values())
        if status != 0:
            cause = f"the check of the files died with status {status}: see the server's log, then create the job anew"
            await jobs.reject(job.id, Failure("validation_died", cause))
            return
        reports: dict[str, Json] = dict(zip(paths, json.loads(output), strict=True))
        faulty = [param for param, report in reports.items() if not report["ok"]]
        if faulty:
            await jobs.reject(job.id, _failure(faulty[0], reports[faulty[0]]), data=reports)
        else:
            await jobs.admit(job.id, job.method, data=reports)


async def _check(method: str, *paths: Path) -> tuple[int, bytes]:
    """Return exit status and output of ``trainer.data``; it does not outlive the call."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "trainer.data",
        method,
        *map(str, paths),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    return await process.wait(), output


def _failure(param: str, report: Json) -> Failure:
    faults = [LineFault(**fault) for fault in report["faults"]]
    shown = "; ".join(map(str, faults[:SHOWN]))
    more = f" (and {len(faults) - SHOWN} more: the job's events have all)" if len(faults) > SHOWN else ""
    return Failure(f"invalid_{param}", f"{shown}{more}", param)
