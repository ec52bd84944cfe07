"""Publishes the exports of training runs: every checkpoint as a version, the best one as the job's result."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters.errors import NameNotAllowed
from adapters.names import DEFAULT_ALIAS, FineTunedName
from adapters.publish_options import PublishOptions
from adapters.sources.directory import DirectorySource
from adapters.storage.disk import in_thread
from adapters.versions import Version
from server.errors import EngineNotReady, ResidencyFull
from server.gateway.gateway import Deferred
from server.operations.residents import make_resident
from server.operations.verdict_maker import Verdict, VerdictMaker
from server.state import AppState
from trainer.jobs.job import Job
from trainer.jobs.rows import check_publishable
from trainer.run_directory import RunCheckpoint, RunDirectory

log = structlog.get_logger(__name__)

RETRY_S: Final = 0.5
_JOB_PREFIX: Final = "ftjob-"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RunPublisher:
    """Publishes from run directories; implements ``trainer.worker.attempt.Publishing``.

    Nothing is published twice, because fine-tuned names are unique in the registry's database. Both methods raise
    JobNotFound or CheckpointNotFound for an unknown job, checkpoint or result, IllegalTransition for a cancelled job,
    LeaseLost for a worker that does not hold the job (``claim``: the token of its claim; None: not compared), and
    PatchbayError where the checks or the engine refused it.
    """

    state: AppState
    deferred: Deferred
    """Returns an app whose requests act for a key; graders of a verdict ask their models there."""

    async def checkpoint(self, job_id: str, step: int, claim: int | None = None) -> str:
        """Publish the job's checkpoint of ``step`` as a version; no alias moves. Return its fine-tuned name."""
        job = await self._wanted(job_id, claim)
        name = self._name(job, step)
        await self._publish(job, step, name)
        return str(name)

    async def result(self, job_id: str, claim: int | None = None) -> str:
        """Give the best checkpoint the job's fine-tuned name, and ``stable`` once it is resident; return that name.

        Where the job has a validation file, its verdict is made before, and stands in the version's report.
        """
        job = await self._wanted(job_id, claim)
        run = self._run(job)
        best = await in_thread(run.best_checkpoint)
        version = await self._publish(job, best.step, self._name(job, best.step))
        await _when_ready(lambda: self._make_resident(version))
        name = self._name(job)
        verdict = await self._verdict(job, version, run, name)
        await self.state.registry.name_result(
            version.adapter,
            version.number,
            name,
            alias=DEFAULT_ALIAS,
            report={**await self._report(job, best, run), **(verdict.report if verdict else {})},
            check=partial(self._check, job, claim, verdict),
        )
        log.info("published a job's result", job=job.id, version=version.name, name=str(name))
        self._warn_of_gate(version)
        return str(name)

    async def _verdict(self, job: Job, version: Version, run: RunDirectory, name: FineTunedName) -> Verdict | None:
        """Return the verdict; None for a job without a validation file, and for a result that has its name already."""
        adapter = self.state.registry.catalog.get(version.adapter)
        if job.validation_file is None or (adapter is not None and name.text in adapter.fine_tuned):
            return None
        return await VerdictMaker(self.state, self.deferred).make(job, version, run)

    async def _check(self, job: Job, claim: int | None, verdict: Verdict | None, connection: AsyncConnection) -> None:
        """Record the verdict in the transaction that names the result: with it or not at all.

        Raises:
            IllegalTransition, LeaseLost: as ``check_publishable``.
        """
        jobs = self.state.records.jobs
        await jobs.check_publishable(job.id, claim, connection)
        if verdict is not None:
            await jobs.record_verdict(job.id, verdict.of_job, verdict.event, connection)

    def _warn_of_gate(self, version: Version) -> None:
        """Log that the alias demands a verdict, which the version does not have, and stays where it is."""
        adapter = self.state.registry.catalog.get(version.adapter)
        alias = None if adapter is None else adapter.aliases.get(DEFAULT_ALIAS)
        if alias is not None and alias.version != version.number and alias.require is not None:
            log.warning("the alias waits for a verdict on a job's result", version=version.name, demands=alias.require)

    async def _wanted(self, job_id: str, claim: int | None) -> Job:
        """Return the job; raises as ``check_publishable``."""
        job = await self.state.records.jobs.get(job_id)
        check_publishable(job, claim)
        return job

    def _name(self, job: Job, step: int | None = None) -> FineTunedName:
        base = self.state.engine.info.served_names[0]
        suffix = job.suffix or job.extension.get("adapter")
        return FineTunedName.of(base, job.organization_id, suffix, job.id.removeprefix(_JOB_PREFIX), step)

    def _run(self, job: Job) -> RunDirectory:
        return RunDirectory(self.state.settings.runs_dir / job.id)

    async def _publish(self, job: Job, step: int, name: FineTunedName) -> Version:
        run = self._run(job)
        checkpoint = await in_thread(run.checkpoint, step)
        source = DirectorySource(checkpoint.adapter, allowed=[run.path], origin=f"job:{job.id}")
        extra = await self._report(job, checkpoint, run)
        options = PublishOptions(fine_tuned_name=name, extra=extra, allow_inert=True, project=job.project)
        try:
            published = await _when_ready(lambda: self.state.publisher.publish(job.adapter, source, options))
        except NameNotAllowed:  # another project took the name while the job was training
            log.warning("the name of a job's adapter is another project's: its id is the name", job=job.id)
            published = await _when_ready(lambda: self.state.publisher.publish(job.id, source, options))
        return published.version

    async def _make_resident(self, version: Version) -> None:
        try:
            await make_resident(self.state, version)
        except ResidencyFull as full:  # all residents are in use: the first request waits
            log.warning("a job's result could not be made resident", version=version.name, reason=full.message)

    async def _report(self, job: Job, checkpoint: RunCheckpoint, run: RunDirectory) -> dict[str, Any]:
        """Return the entry ``training`` of a version's report."""
        result, preflight, marker = run.result(), run.preflight(), checkpoint.marker
        training: dict[str, Any] = {
            "job": job.id,
            "step": marker.step,
            "method": job.method["type"],
            "hyperparameters": preflight["hyperparameters"],
            "seed": job.seed,
            "warm_start": job.extension.get("warm_start"),
            "data": {
                "training_file": await self._file(job.training_file),
                "validation_file": None if job.validation_file is None else await self._file(job.validation_file),
            },
            "renderer_sha256": preflight["renderer_sha256"],
            "metrics": marker.metrics,
            "trained_tokens": marker.trained_tokens,
            "seconds": round(marker.seconds, 3),
        }
        if (extraction := checkpoint.extraction()) is not None:
            training["extraction"] = extraction
        if result is not None:
            training |= {"peak_memory_bytes": result.peak_memory_bytes, "curves": result.curves}
        is_best = result is not None and result.best_checkpoint == f"step-{marker.step}"
        distillation = result.distillation if result is not None and is_best else None
        return {"training": training} | ({"distillation": distillation} if distillation else {})

    async def _file(self, file_id: str) -> Mapping[str, Any]:
        file = await self.state.records.files.get(file_id)
        return {"id": file.id, "filename": file.filename, "sha256": file.sha256}


async def _when_ready(operation: Callable[[], Awaitable[T]]) -> T:
    """Return the result of ``operation``, retried while no engine is ready: hours of training must not be lost."""
    while True:
        try:
            return await operation()
        except EngineNotReady:
            await asyncio.sleep(RETRY_S)
