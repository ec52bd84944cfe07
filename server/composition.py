"""Builds a server from its settings. Read from top to bottom, it shows what each part needs."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from adapters.checks.inspector import Inspector
from adapters.compile.adapter_compiler import AdapterCompiler
from adapters.crash_points import CrashPoints
from adapters.errors import BlobStoreUnavailable
from adapters.names import Reference
from adapters.publisher import Publisher
from adapters.registry.registry import Registry
from adapters.storage.blobs import Blobs
from adapters.storage.orphan_ages import OrphanAges
from adapters.storage.remote_blobs import RemoteBlobs
from adapters.storage.staging import Staging
from adapters.versions import Version
from server.access import keys_mark
from server.access.key_ring import KeyRing
from server.accounts.accounts import Accounts
from server.accounts.quotas import Quotas
from server.background import background
from server.batches.batch_queue import BatchQueue
from server.batches.batch_store import BatchStore
from server.batches.deferred_runner import DeferredRunner
from server.current_engine import CurrentEngine, RunningEngine
from server.death_suspects import DeathSuspects
from server.engine.protocol import Engine, EngineBuilder
from server.evals.eval_work import EvalWorkQueue
from server.gateway.admission import Admission
from server.gateway.gateway import Deferred, Gateway
from server.gateway.meter import Meter
from server.gateway.request_hooks import RequestHooks
from server.http.body_reader import BodyReader
from server.metrics import Metrics
from server.operations.batch_checks import BatchChecks
from server.operations.missing_blobs import warn_of_missing_blobs
from server.operations.other_renderers import warn_of_other_renderers
from server.operations.publish import register_bundled_adapters
from server.operations.resident_follower import follow_residents
from server.operations.rollout_runner import RolloutRunner
from server.operations.run_publisher import RunPublisher
from server.operations.run_sampler import RunSampler
from server.operations.served_versions import check_served_versions
from server.operations.training_accounts import follow_training
from server.operations.upload_checks import UploadChecks
from server.probe.probe import Probe
from server.probe.reference import PeftReference
from server.residency.capacity import Capacity
from server.residency.journal import ResidentsJournal
from server.residency.quarantine import Quarantine
from server.residency.residency import Residency
from server.responses.recorder import ResponseRecorder
from server.responses.response_store import ResponseStore
from server.scheduling.fair_scheduler import FairScheduler
from server.settings import Settings, check_exposure
from server.state import AppState
from server.supervisor import Supervisor
from trainer.child import run_preflight
from trainer.graders.grader_processes import GraderProcesses
from trainer.job_preflight import JobPreflight, Preflight
from trainer.records import Records
from trainer.run_sweep import sweep_runs
from trainer.worker.worker import Worker, worker_name

if TYPE_CHECKING:
    from server.access.token_issuer import TokenIssuer

log = structlog.get_logger(__name__)

USAGE_INTERVAL_S: Final = 3.0
"""Seconds between writes of what was counted: what a server that is killed may lose."""


@asynccontextmanager
async def open_app(
    settings: Settings,
    builder: EngineBuilder,
    *,
    bundled_adapters: Path | None = None,
    compiles: bool = True,
    inspector: Inspector | None = None,
    preflight: Preflight = run_preflight,
) -> AsyncIterator[AppState]:
    """Open every part and start the engine. Control routes answer at once, inference when the engine is ready.

    Args:
        bundled_adapters: directory of adapters to register at the first start, a subdirectory each.
        compiles: whether other PEFT kinds are compiled to plain LoRA.
        inspector: checks uploads in child processes; None: this server has its own.
        preflight: checks the files of a new job.

    Raises:
        ExposedWithoutKeys: other machines can reach the address and no API key exists.
    """
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    engine, must_fit = CurrentEngine(), settings.probe_reference == "auto"
    async with (
        Registry.open(settings.database) as registry,
        aclosing(Inspector()) if inspector is None else nullcontext(inspector) as inspector,
        aclosing(AdapterCompiler()) as compiler,
        aclosing(PeftReference(engine.base_directory, threads=_training_threads(1), must_fit=must_fit)) as reference,
        _open_issuer(settings) as issuer,
    ):
        keys = await _open_keys(settings, registry, has_issuer=issuer is not None)
        records = await Records.open(registry.database, settings.training_dir, max_file_bytes=settings.max_file_bytes)
        batches = await BatchStore.open(records.files, settings.data_dir.absolute() / "batches")
        responses = await _open_responses(settings, registry)
        accounts = await Accounts.open(registry, records.files, settings.default_limits)
        blobs = Blobs(settings.data_dir, remote=None if settings.blob_url is None else RemoteBlobs(settings.blob_url))
        metrics = _make_metrics(settings)
        admission, meter = Admission(settings.max_in_flight), Meter(metrics.adapters)
        suspects, quarantined = DeathSuspects(), Quarantine(registry.catalog.quarantine_reason)
        hooks = RequestHooks(registry, admission, meter, engine, accounts, settings.request_bounds, suspects)
        checks = UploadChecks(engine, settings, inspector, compiler)
        probe = Probe(engine, None if settings.probe_reference == "off" else reference, suspects=suspects)
        publisher = _make_publisher(settings, registry, blobs, checks, probe, accounts.quotas, compiles=compiles)
        journal = ResidentsJournal(settings.data_dir / "residents.json")
        supervisor = Supervisor(
            builder,
            hooks,
            engine,
            make_residency=partial(
                _make_residency, settings, registry, blobs, metrics, quarantined, suspects, accounts
            ),
            make_scheduler=lambda engine: FairScheduler(engine.slots, engine.batch, turn_s=settings.turn_s),
            after_start=partial(_after_start, registry, publisher, inspector, journal, bundled_adapters),
            max_deaths=settings.max_engine_deaths,
            window_s=settings.engine_death_window_s,
            stall_s=settings.engine_stall_s,
            metrics=metrics.engine,
        )
        state = AppState(
            settings,
            registry,
            blobs,
            publisher,
            keys,
            issuer,
            metrics,
            admission,
            BodyReader(settings.max_body_bytes),
            hooks,
            engine,
            supervisor,
            quarantined,
            records,
            _make_job_preflight(settings, records, engine, registry, blobs, preflight),
            batches,
            responses,
            accounts,
            GraderProcesses.of(settings.grader_bounds, runs_python=settings.python_graders),
        )
        async with _running(state, journal):
            yield state


@asynccontextmanager
async def _running(state: AppState, journal: ResidentsJournal) -> AsyncIterator[None]:
    """Run the background loops for the block; worker, batches and evals end first, while the others still serve them.

    At the end, the usage that is still in memory is written.
    """
    settings, engine = state.settings, state.engine
    deferred = _make_deferred(state)
    publisher, sampler = RunPublisher(state, deferred), RunSampler(state, deferred)
    worker = Worker(state.records, settings.runs_dir, publisher, sampler, worker_name(), engine.base_fingerprint)
    runner = _make_deferred_runner(state, deferred)
    try:
        async with (
            background(
                supervisor=state.supervisor.run,
                registry=partial(state.registry.follow, settings.follow_interval_s),
                keys=partial(state.keys.follow, settings.follow_interval_s),
                key_uses=state.keys.follow_uses,
                keys_mark=partial(keys_mark.leave, state.keys, settings.data_dir, settings.follow_interval_s),
                limits=partial(state.accounts.limits.follow, settings.follow_interval_s),
                usage=partial(state.accounts.usage.persist, USAGE_INTERVAL_S),
                journal=partial(journal.persist, lambda: engine.serving().residency.versions()),
                sweeper=partial(_sweep, state),
                residents=partial(follow_residents, state),
                job_preflight=state.job_preflight.run,
                training_accounts=partial(follow_training, state),
                **({} if state.issuer is None else {"issuer_keys": state.issuer.keys.follow}),
            ),
            state.graders.running(),
            background(deferred=runner.run, rollouts=RolloutRunner(state, deferred).run),
            background(worker=worker.run) if settings.worker else nullcontext(),
        ):
            yield
    finally:
        await state.accounts.usage.try_flush()


async def _open_keys(settings: Settings, registry: Registry, *, has_issuer: bool) -> KeyRing:
    """Open the key ring. Raises ExposedWithoutKeys."""
    keys = await KeyRing.open(registry.database, has_issuer=has_issuer)
    keys_mark.obey(keys, settings.data_dir)
    check_exposure(settings, is_open=keys.is_open)
    return keys


def _make_deferred(state: AppState) -> Deferred:
    """Return the maker of the gateway's apps for the server's own requests, which wait behind all others."""
    return Gateway(
        hooks=state.hooks,
        engine=state.engine,
        keys=state.keys,
        admission=state.admission,
        bodies=state.bodies,
        responses=ResponseRecorder(state.responses),
        timeout_s=None,  # a line waits behind live traffic for as long as its batch or run may take
    ).deferred


def _make_deferred_runner(state: AppState, deferred: Deferred) -> DeferredRunner:
    max_models = max(1, state.settings.max_residents // 2)  # the other half is left to other requests
    batches = BatchQueue(state.batches, BatchChecks(state.engine, state.registry, state.keys))
    queues = (batches, EvalWorkQueue(state))
    return DeferredRunner(queues, state.engine, deferred, worker_name(), max_models)


@asynccontextmanager
async def _open_issuer(settings: Settings) -> AsyncIterator[TokenIssuer | None]:
    """Open a client of the issuer of tokens for the block; None if the settings name none."""
    url, audience = settings.oidc_issuer_url, settings.oidc_audience
    if url is None:
        yield None
        return
    assert audience is not None  # the settings refuse an issuer without one
    from server.access.token_issuer import TokenIssuer  # joserfc is an extra, which the settings have checked

    claims = {"project_claim": settings.oidc_project_claim, "scope_claim": settings.oidc_scope_claim}
    async with TokenIssuer.open(url, audience, **claims) as issuer:
        yield issuer


async def _open_responses(settings: Settings, registry: Registry) -> ResponseStore:
    limit, max_age_s = settings.max_responses, settings.max_response_age_s
    return await ResponseStore.open(registry.database, limit=limit, max_age_s=max_age_s)


def _make_metrics(settings: Settings) -> Metrics:
    return Metrics(settings.metric_adapters, capacity=settings.max_residents, capacity_bytes=settings.resident_bytes)


def _training_threads(processes: int) -> int:
    """Return the CPU threads of each process of a run: together they leave half of the cores to the server."""
    return max(1, (os.cpu_count() or 1) // 2 // processes)


def _make_publisher(
    settings: Settings,
    registry: Registry,
    blobs: Blobs,
    checks: UploadChecks,
    probe: Probe,
    quotas: Quotas,
    *,
    compiles: bool,
) -> Publisher:
    return Publisher(
        registry,
        blobs,
        Staging(settings.data_dir, max_bytes=settings.max_upload_bytes),
        checks=checks.canonicalize,
        check_base=checks.check_base,
        compare_tokenizer=checks.compare_tokenizer,
        compiler=checks.compile if compiles else None,
        probe=probe,
        crash_points=CrashPoints(settings.fault_at),
        check_stored=quotas.check_stored,
    )


def _make_job_preflight(
    settings: Settings, records: Records, engine: CurrentEngine, registry: Registry, blobs: Blobs, preflight: Preflight
) -> JobPreflight:
    return JobPreflight(
        records,
        settings.runs_dir,
        name=f"{worker_name()}:{secrets.token_hex(4)}",  # containers may share host and process id
        base=engine.training_base,
        adapter=partial(_version_directory, registry, blobs),
        preflight=preflight,
        threads=_training_threads(settings.train_processes),
        processes=settings.train_processes,
        max_s=settings.max_check_s,
    )


def _make_residency(
    settings: Settings,
    registry: Registry,
    blobs: Blobs,
    metrics: Metrics,
    quarantined: Quarantine,
    suspects: DeathSuspects,
    accounts: Accounts,
    engine: Engine,
) -> Residency:
    return Residency(
        engine,
        locate=blobs.verify,
        capacity=Capacity(settings.max_residents, settings.resident_bytes, accounts.quotas.project_bytes),
        wait_s=settings.load_wait_s,
        is_pinned=registry.catalog.is_pinned,
        quarantined=quarantined,
        suspects=suspects,
        metrics=metrics.engine,
    )


async def _after_start(
    registry: Registry,
    publisher: Publisher,
    inspector: Inspector,
    journal: ResidentsJournal,
    bundled_adapters: Path | None,
    running: RunningEngine,
    last_residents: Sequence[Version] | None,
) -> None:
    """Warm up a new engine: pinned versions, candidates of rollouts, then the last residents.

    A version that cannot be loaded is logged.

    Raises:
        StartRefused: the engine would cut published versions.
    """
    await check_served_versions(registry, running)
    await inspector.start(running.info.base)  # ahead of the first upload
    if bundled_adapters is not None:
        await register_bundled_adapters(registry, publisher, bundled_adapters)
    await warn_of_other_renderers(registry, running.engine)
    catalog, fingerprint = registry.catalog, running.info.base.fingerprint
    recent = journal.recent(catalog) if last_residents is None else last_residents
    wanted = dict.fromkeys([*catalog.pinned(), *catalog.candidates(), *filter(catalog.is_living, recent)])
    fitting = [version for version in wanted if version.base_fingerprint == fingerprint]
    for version in await running.residency.warm(fitting):
        log.warning("could not be made resident again", version=version.name)


async def _version_directory(registry: Registry, blobs: Blobs, name: str) -> Path:
    """Return the directory of the files of the version called ``name``.

    Raises:
        NotFound: the version was deleted.
    """
    version = await registry.look_up(lambda catalog: catalog.resolve(Reference.parse(name)))
    return await blobs.path(version.digest)


async def _claim_blobs(state: AppState) -> None:
    try:
        await state.blobs.claim(await state.registry.installation(), await state.registry.known_digests())
    except BlobStoreUnavailable as away:
        log.warning("the blob store cannot be marked as this installation's yet", reason=away.message)


async def _sweep(state: AppState) -> None:
    settings, checks = state.settings, OrphanAges()
    await _claim_blobs(state)
    await warn_of_missing_blobs(state)
    await state.blobs.sweep_staging()
    while True:
        await asyncio.sleep(settings.sweep_interval_s)
        await _claim_blobs(state)
        living, known = await state.registry.digests(), await state.registry.known_digests()
        if removed := await state.blobs.sweep(living, known, settings.sweep_grace_s):
            log.info("swept orphaned blobs", digests=removed)
        if gone := await state.records.files.sweep(settings.sweep_grace_s):
            log.info("swept files that expired or have no owner", files=gone)
        if parts := await state.records.uploads.sweep(settings.sweep_grace_s):
            log.info("swept parts of uploads that have ended", uploads=parts)
        jobs, grace_s = state.records.jobs, max(settings.sweep_grace_s, settings.max_check_s)
        if runs_left := await sweep_runs(jobs, settings.runs_dir, checks, keep_s=settings.keep_runs_s, grace_s=grace_s):
            log.info("swept directories of runs that have ended", runs=runs_left)
        await state.responses.sweep()
        await state.records.feedback.sweep(settings.max_response_age_s)
        if left := await state.batches.sweep(settings.sweep_grace_s):
            log.info("swept directories of batches that have ended", batches=left)
