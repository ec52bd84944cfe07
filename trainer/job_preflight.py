"""The preflight of new jobs: a job whose files and options can be trained on is queued, any other fails.

A queued job has its run directory, whose spec holds everything that a worker's child process needs.
"""

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import structlog

from adapters.errors import BlobCorrupt, NotFound, PatchbayError
from adapters.storage.disk import in_thread, is_no_space
from adapters.storage.manifest import FILES
from trainer.data.faults import LineFault
from trainer.errors import FileCorrupt, IllegalTransition, LeaseLost, PreflightDied
from trainer.jobs.job import Failure, Job, Json
from trainer.options import TrainingOptions
from trainer.records import Records
from trainer.renderer_options import RendererOptions
from trainer.run_directory import RunDirectory
from trainer.run_spec import RunSpec

log = structlog.get_logger(__name__)

SHOWN: Final = 5
"""Faults in the error's message; the event has all of them."""

AT_ONCE: Final = 2
"""Checks at the same time; each may need the memory of the base model."""
LOOK_S: Final = 2.0
"""Interval at which a running check looks whether its job was cancelled."""
IDLE_S: Final = 10.0
"""Interval at which a process without checks looks for jobs, of which another process may have died."""
MOST_PROJECTS: Final = 1024
"""Projects whose last turn is remembered."""
MOST_TRIES: Final = 3
"""Unforeseen errors after which a job is rejected."""
RETRY_S: Final = 5.0
MAX_CAUSE: Final = 500
"""Characters of an unforeseen error in the job's error."""

LEASE_S: Final = 30.0
"""Seconds without a renewal after which another process may check the files of a job."""


@dataclass(frozen=True, slots=True)
class TrainingBase:
    """The base model that jobs are trained on."""

    directory: Path
    renderer: RendererOptions
    """How the server renders prompts for it."""
    fingerprint: str


Preflight = Callable[[RunSpec, RunDirectory, Callable[[], Awaitable[None]]], Awaitable[dict[str, Any]]]
"""See ``trainer.child.run_preflight``."""


@dataclass
class JobPreflight:
    """Runs the preflight of new jobs, ``AT_ONCE`` at a time, begun in the order of their creation.

    Processes that share the database and the directory divide the jobs between them.
    """

    records: Records
    runs: Path
    """Directory of the run directories, one a job."""
    _: KW_ONLY
    name: str
    """Tells this process apart from others that check jobs."""
    base: Callable[[], Awaitable[TrainingBase]]
    """Waits until the base model is known."""
    adapter: Callable[[str], Awaitable[Path]]
    """Returns the directory of a version, named as ``sql@7``; raises NotFound."""
    preflight: Preflight
    threads: int
    """CPU threads of each process of a run."""
    processes: int = 1
    """Processes of a run."""
    max_s: float = 3600.0
    """Seconds that the check of one job may take."""
    _notified: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    _served: dict[str, int] = field(default_factory=dict, init=False)
    """By project, the number of the turn in which a check of it was begun last; the latest at the end."""
    _turns: int = field(default=0, init=False)

    def notify(self) -> None:
        """Wake the loop: there may be new jobs."""
        self._notified.set()

    async def run(self) -> None:
        """Decide about jobs until cancelled: first those that a crash left undecided, then new ones.

        A few at once, so that a slow check does not hold up the others; the check of a cancelled job is ended.
        """
        checking: dict[str, asyncio.Task[None]] = {}
        base = (await self.base()).fingerprint
        try:
            while True:
                self._notified.clear()
                undecided = {job.id: job for job in await self.records.jobs.unvalidated(self.name, base)}
                for job_id, check in list(checking.items()):
                    if check.done():
                        del checking[job_id]
                        undecided.pop(job_id, None)
                    elif job_id not in undecided:  # cancelled
                        check.cancel()
                    else:
                        await self._renew(undecided[job_id])
                new = [job for job_id, job in undecided.items() if job_id not in checking]
                while new and len(checking) < AT_ONCE:
                    job = self._next(new, [undecided[job_id].project for job_id in checking if job_id in undecided])
                    new.remove(job)
                    checking[job.id] = asyncio.create_task(self._check(job), name=job.id)
                    checking[job.id].add_done_callback(lambda _: self.notify())
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S if checking else IDLE_S):
                        await self._notified.wait()
        finally:
            for check in checking.values():
                check.cancel()
            await asyncio.gather(*checking.values(), return_exceptions=True)

    def _next(self, waiting: Sequence[Job], checking: Sequence[str]) -> Job:
        """Return the oldest job of the project with the fewest in ``checking``; of several, of the longest unserved."""
        job = min(waiting, key=lambda job: (checking.count(job.project), self._served.get(job.project, 0)))
        self._served.pop(job.project, None)
        self._served[job.project] = self._turns = self._turns + 1
        if len(self._served) > MOST_PROJECTS:
            del self._served[next(iter(self._served))]
        return job

    async def _renew(self, job: Job) -> None:
        with suppress(LeaseLost):  # its check ends by itself
            await self.records.jobs.hold(job.id, self.name, LEASE_S)

    async def _check(self, job: Job) -> None:
        """Decide about a job; an unforeseen error rejects it after a few tries, and stops no other job."""
        tries = 0
        while True:
            try:
                await self.records.jobs.hold(job.id, self.name, LEASE_S)
                async with asyncio.timeout(self.max_s):
                    await self._decide(job)
                return
            except (IllegalTransition, LeaseLost):  # cancelled meanwhile, or checked by another process
                return
            except TimeoutError:
                cause = f"the check of its files took more than {self.max_s:g} s"
                await self._reject(
                    job, Failure("check_too_slow", f"{cause}: send smaller ones, or raise --max-check-s")
                )
                return
            except Exception as error:  # whatever it is, the next jobs must be checked
                is_passing = (isinstance(error, PatchbayError) and error.is_passing) or is_no_space(error, self.runs)
                log.exception("the check of a job failed", job=job.id, is_passing=is_passing)
                tries += not is_passing
                if tries >= MOST_TRIES:
                    cause = f"the check of its files failed {tries} times, the last time with: {error}"
                    await self._reject(job, Failure("check_failed", cause[:MAX_CAUSE]))
                    return
            await asyncio.sleep(RETRY_S)

    async def _reject(self, job: Job, failure: Failure) -> None:
        with suppress(IllegalTransition):
            await self.records.jobs.reject(job.id, failure)

    async def _decide(self, job: Job) -> Job:
        jobs = self.records.jobs
        try:
            inputs = await self._inputs(job)
            # Asked again before each write: what another process has written, a run may read by now.
            hold = partial(jobs.hold, job.id, self.name, LEASE_S)
            report = await self.preflight(run_spec(job, inputs), RunDirectory(self.runs / job.id), hold)
        except (BlobCorrupt, FileCorrupt, NotFound) as missing:
            return await jobs.reject(job.id, Failure(missing.code, missing.message, missing.param))
        except ValueError as unknown:  # created by another release, which has more methods
            return await jobs.reject(job.id, Failure("cannot_train", str(unknown)))
        except PreflightDied as died:
            log.error("the preflight of a job died", job=job.id, reason=died.message, output=died.log)
            cause = f"{died.message}: see the server's log, then create the job anew"
            return await jobs.reject(job.id, Failure(died.code, cause))
        data = {"training_file": report["training"], "validation_file": report["validation"]}
        data |= {name: report[name] for name in ("hyperparameters", "estimate") if name in report}
        if not report["ok"]:
            return await jobs.reject(job.id, _failure(report), data=data)
        method = _resolved(job.method, report["hyperparameters"])
        await hold()
        await in_thread(self._write_run, replace(job, method=method), inputs, report)
        return await jobs.admit(job.id, method, data=data)

    async def _inputs(self, job: Job) -> dict[str, Any]:
        """Return the fields of the job's spec that are no options: paths of the files that it names, and resources.

        Raises:
            BlobCorrupt, FileCorrupt, NotFound: one of them no longer exists.
        """
        files, warm_start = self.records.files, job.extension.get("warm_start")
        base = await self.base()
        return {
            "base": base.directory,
            "renderer": base.renderer,
            "training_file": await files.content(job.training_file),
            "validation_file": None if job.validation_file is None else await files.content(job.validation_file),
            "warm_start": None if warm_start is None else await self.adapter(warm_start),
            "threads": self.threads,
            "processes": 1 if job.grader or job.prompt else self.processes,  # the first alone has the way to the server
        }

    def _write_run(self, job: Job, inputs: dict[str, Any], report: Mapping[str, Any]) -> None:
        """Write the job's run directory, with a copy of the warm start: its version may be deleted meanwhile."""
        run = RunDirectory(self.runs / job.id)
        run.path.mkdir(parents=True, exist_ok=True)
        if (warm_start := inputs["warm_start"]) is not None:
            run.warm_start.mkdir(exist_ok=True)
            for name in FILES:
                shutil.copyfile(warm_start / name, run.warm_start / name)
            inputs = {**inputs, "warm_start": run.warm_start}
        run.write_preflight(report)
        run.write_integrations(job.integrations or ())
        run.write_spec(run_spec(job, inputs))


def run_spec(job: Job, inputs: Mapping[str, Any]) -> RunSpec:
    """Return the spec of the child process of ``job``; ``inputs`` are its fields that are no options.

    Raises:
        ValueError: the job is of a release that has other methods or options.
    """
    stated = {**job.extension, **job.hyperparameters, "seed": job.seed}
    options = {name: stated[name] for name in TrainingOptions.model_fields if stated.get(name) is not None}
    return RunSpec.from_json({**options, "method": job.method["type"], "prompt": job.prompt, **inputs})


def _resolved(method: Json, resolved: Mapping[str, Any]) -> dict[str, Any]:
    """Return OpenAI's ``method`` with each "auto" replaced by its value in ``resolved``."""
    name = method["type"]
    hyperparameters = {key: resolved.get(key, value) for key, value in method[name]["hyperparameters"].items()}
    return {**method, name: {**method[name], "hyperparameters": hyperparameters}}


def _failure(report: Json) -> Failure:
    for param, file in (("training_file", report["training"]), ("validation_file", report["validation"])):
        if file is not None and not file["ok"]:
            faults = [LineFault(**fault) for fault in file["faults"]]
            shown = "; ".join(map(str, faults[:SHOWN]))
            rest = len(faults) + file["left_out"] - SHOWN
            more = f" (and {rest} more: the job's events have them)" if rest > 0 else ""
            return Failure(f"invalid_{param}", f"{shown}{more}", param)
    return Failure("cannot_train", report.get("reason") or report["estimate"]["reason"])
