"""What becomes of a new job: its files are checked and its longest rows tried, and it is queued or fails.

A queued job has its run directory: the spec says everything that a worker's child needs, with no "auto" left.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import structlog

from adapters.errors import BlobCorrupt, NotFound
from adapters.storage.disk import in_thread
from adapters.storage.manifest import FILES
from trainer.data.faults import LineFault
from trainer.errors import FileCorrupt, IllegalTransition, PreflightDied
from trainer.jobs.job import Failure, Job, Json
from trainer.records import Records
from trainer.run_directory import RunDirectory
from trainer.run_request import Ingredients, resolved_method, run_spec
from trainer.run_spec import RunSpec

log = structlog.get_logger(__name__)

SHOWN: Final = 5
"""Faults in the error's message; the event has all of them."""

Preflight = Callable[[RunSpec], Awaitable[dict[str, Any]]]
"""See ``trainer.preflight_process.run_preflight``."""


class JobPreflight:
    """Validates the jobs of ``records``, one at a time and in the order of their creation.

    Several processes may validate the same job: the first to finish decides, and all would decide alike.

    Args:
        records: where new jobs are.
        runs: directory of the run directories, one a job.
        base: waits until the base model's directory is known.
        adapter: returns the directory of a version, named as ``sql@7``; raises NotFound.
        preflight: checks what a spec says.
        threads: CPU threads of each process of a run.
        processes: processes of a run.
    """

    def __init__(
        self,
        records: Records,
        runs: Path,
        *,
        base: Callable[[], Awaitable[Path]],
        adapter: Callable[[str], Awaitable[Path]],
        preflight: Preflight,
        threads: int,
        processes: int = 1,
    ) -> None:
        self._records = records
        self._runs = runs
        self._base = base
        self._adapter = adapter
        self._preflight = preflight
        self._threads = threads
        self._processes = processes
        self._asked = asyncio.Event()

    def notify(self) -> None:
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
        jobs = self._records.jobs
        try:
            given = await self._gather(job)
            report = await self._preflight(run_spec(job, given))
        except (BlobCorrupt, FileCorrupt, NotFound) as gone:
            await jobs.reject(job.id, Failure(gone.code, gone.message, gone.param))
            return
        except ValueError as unknown:  # written by another release, which knows more methods
            await jobs.reject(job.id, Failure("cannot_train", str(unknown)))
            return
        except PreflightDied as died:
            log.error("a job's files could not be checked", job=job.id, reason=died.message, said=died.log)
            cause = f"{died.message}: see the server's log, then create the job anew"
            await jobs.reject(job.id, Failure(died.code, cause))
            return
        data = {"training_file": report["training"], "validation_file": report["validation"]}
        data |= {name: report[name] for name in ("hyperparameters", "estimate") if name in report}
        if not report["ok"]:
            await jobs.reject(job.id, _failure(report), data=data)
            return
        method = resolved_method(job.method, report["hyperparameters"])
        await in_thread(self._lay_out, replace(job, method=method), given, report)
        await jobs.admit(job.id, method, data=data)

    async def _gather(self, job: Job) -> Ingredients:
        """Find what the job names.

        Raises:
            BlobCorrupt, FileCorrupt, NotFound: something of it is gone.
        """
        files, warm_start = self._records.files, job.extension.get("warm_start")
        return Ingredients(
            base=await self._base(),
            training=await files.content(job.training_file),
            validation=None if job.validation_file is None else await files.content(job.validation_file),
            warm_start=None if warm_start is None else await self._adapter(warm_start),
            threads=self._threads,
            processes=self._processes,
        )

    def _lay_out(self, job: Job, given: Ingredients, report: Mapping[str, Any]) -> None:
        """Write the job's run directory, with a copy of the warm start: its version may be deleted meanwhile."""
        run = RunDirectory(self._runs / job.id)
        run.path.mkdir(parents=True, exist_ok=True)
        if given.warm_start is not None:
            run.warm_start.mkdir(exist_ok=True)
            for name in FILES:
                shutil.copyfile(given.warm_start / name, run.warm_start / name)
            given = replace(given, warm_start=run.warm_start)
        run.write_preflight(report)
        run.write_integrations(job.integrations or ())
        run.write_spec(run_spec(job, given))


def _failure(report: Json) -> Failure:
    for param, file in (("training_file", report["training"]), ("validation_file", report["validation"])):
        if file is not None and not file["ok"]:
            faults = [LineFault(**fault) for fault in file["faults"]]
            shown = "; ".join(map(str, faults[:SHOWN]))
            rest = len(faults) + file["left_out"] - SHOWN
            more = f" (and {rest} more: the job's events have them)" if rest > 0 else ""
            return Failure(f"invalid_{param}", f"{shown}{more}", param)
    return Failure("cannot_train", report.get("reason") or report["estimate"]["reason"])
