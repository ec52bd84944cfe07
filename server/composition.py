"""Where the parts of a server are put together; read it to see what depends on what."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, nullcontext
from functools import partial
from pathlib import Path

import structlog

from adapters.checks.base_identity import BaseIdentity
from adapters.checks.canonicalizer import Canonical
from adapters.checks.inspection import AdapterLimits
from adapters.checks.inspector import Inspector
from adapters.compile.adapter_compiler import AdapterCompiler
from adapters.crash_points import CrashPoints
from adapters.lora.compile_report import CompileReport
from adapters.names import Reference
from adapters.publisher import Publisher
from adapters.registry.registry import Registry
from adapters.storage.blobs import Blobs
from adapters.storage.remote_blobs import RemoteBlobs
from adapters.storage.staging import Staging
from adapters.versions import Version
from server.access.key_ring import KeyRing
from server.background import background
from server.engine.protocol import Engine, EngineBuilder
from server.gateway.admission import Admission
from server.gateway.meter import Meter
from server.gateway.request_hooks import RequestHooks
from server.metrics import Metrics
from server.operations.bundled_adapters import register_bundled_adapters
from server.operations.run_publisher import RunPublisher
from server.probe.probe import Probe
from server.probe.reference import PeftReference
from server.residency.journal import ResidentsJournal
from server.residency.quarantine import Quarantine
from server.residency.residency import Residency
from server.scheduling.fair_scheduler import FairScheduler
from server.settings import Settings, check_exposure
from server.state import AppState
from server.supervisor import Serving, Supervisor
from trainer.job_preflight import JobPreflight, Preflight
from trainer.preflight_process import run_preflight
from trainer.records import Records
from trainer.worker.worker import Worker, worker_name

log = structlog.get_logger(__name__)


@asynccontextmanager
async def open_app(
    settings: Settings,
    builder: EngineBuilder,
    *,
    examples: Path | None = None,
    compiles: bool = True,
    inspector: Inspector | None = None,
    preflight: Preflight = run_preflight,
) -> AsyncIterator[AppState]:
    """Open every part and start the engine; the server answers control calls at once, inference when it is ready.

    Args:
        settings: what the operator decided.
        builder: starts engines.
        examples: adapters to register at the first start, a directory each.
        compiles: adapters that the engine would not serve exactly as they are may be compiled to plain LoRA.
        inspector: looks at uploads; one of this server's own if None.
        preflight: checks a new job's files.

    Raises:
        ExposedWithoutKeys: other machines could call and nobody needs a key.
    """
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    remote = None if settings.blob_url is None else RemoteBlobs(settings.blob_url)
    blobs = Blobs(settings.data_dir, remote=remote)
    async with Registry.open(settings.database) as registry:
        keys = await KeyRing.open(registry.database)
        check_exposure(settings, has_keys=not keys.is_empty)
        records = await Records.open(registry.database, settings.training_dir, max_file_bytes=settings.max_file_bytes)
        metrics = _metrics(settings)
        journal = ResidentsJournal(settings.data_dir / "residents.json")
        admission = Admission(settings.max_in_flight)
        hooks = RequestHooks(registry.catalog, admission, Meter(metrics.adapters), serving=lambda: supervisor.serving())
        inspecting = Inspector() if inspector is None else inspector

        async def settle(serving: Serving, before: Sequence[Version] | None) -> None:
            if inspector is None:
                await inspecting.start(serving.info.base)  # ahead of the first upload
            if examples is not None:
                await register_bundled_adapters(registry, publisher, examples)
            recent = journal.recent(registry.catalog) if before is None else before
            await _warm(serving, registry, recent)

        supervisor = Supervisor(
            builder,
            hooks,
            residency_of=partial(_residency, settings, registry, blobs, metrics, Quarantine()),
            scheduler_of=partial(_scheduler, settings),
            settle=settle,
            max_deaths=settings.max_engine_deaths,
            window_s=settings.engine_death_window_s,
            metrics=metrics.engine,
        )
        reference = PeftReference(
            partial(_base_directory, supervisor),
            threads=_training_threads(1),
            must_fit=settings.probe_reference == "auto",
        )
        compiler = AdapterCompiler() if compiles else None
        publisher = _publisher(settings, registry, blobs, supervisor, inspecting, compiler, reference)
        job_preflight = _job_preflight(settings, records, supervisor, registry, blobs, preflight)
        async with (
            aclosing(reference),
            nullcontext() if compiler is None else aclosing(compiler),
            aclosing(inspecting) if inspector is None else nullcontext(),
            background(
                supervisor=supervisor.run,
                registry=partial(registry.follow, settings.follow_interval_s),
                keys=partial(keys.follow, settings.follow_interval_s),
                journal=partial(journal.keep, lambda: supervisor.serving().residency.versions()),
                sweeper=partial(_sweep, blobs, registry, records, settings),
                job_preflight=job_preflight.run,
            ),
        ):
            state = AppState(
                settings,
                registry,
                blobs,
                publisher,
                keys,
                metrics,
                admission,
                hooks,
                supervisor,
                records,
                job_preflight,
            )
            async with background(worker=_worker(state).run) if settings.worker else nullcontext():
                yield state


def _publisher(
    settings: Settings,
    registry: Registry,
    blobs: Blobs,
    supervisor: Supervisor,
    inspector: Inspector,
    compiler: AdapterCompiler | None,
    reference: PeftReference,
) -> Publisher:
    return Publisher(
        registry,
        blobs,
        Staging(settings.data_dir, max_bytes=settings.max_upload_bytes),
        door=partial(_door, inspector, supervisor, settings),
        check_base=partial(_check_base, supervisor),
        faults=CrashPoints(settings.fault_at),
        compiler=None if compiler is None else partial(_compile, compiler, supervisor, settings),
        probe=_probe(supervisor, partial(_asked, reference, settings, supervisor)),
    )


def _metrics(settings: Settings) -> Metrics:
    return Metrics(settings.metric_adapters, capacity=settings.max_residents, capacity_bytes=settings.resident_bytes)


def _residency(
    settings: Settings, registry: Registry, blobs: Blobs, metrics: Metrics, quarantine: Quarantine, engine: Engine
) -> Residency:
    return Residency(
        engine,
        locate=blobs.verify,
        capacity=settings.max_residents,
        max_bytes=settings.resident_bytes,
        wait_s=settings.load_wait_s,
        is_pinned=registry.catalog.is_pinned,
        quarantine=quarantine,
        metrics=metrics.engine,
    )


def _scheduler(settings: Settings, engine: Engine) -> FairScheduler:
    return FairScheduler(engine.slots, engine.batch, turn_s=settings.turn_s)


def _probe(supervisor: Supervisor, reference: Callable[[], PeftReference | None]) -> Probe:
    return Probe(lambda: supervisor.running().residency, lambda: supervisor.running().scheduler, reference)


def _asked(reference: PeftReference, settings: Settings, supervisor: Supervisor) -> PeftReference | None:
    """Return who compares an adapter with PEFT; nobody while an engine is readied: loading the base takes a while."""
    return None if settings.probe_reference == "off" or not supervisor.is_ready else reference


def _job_preflight(
    settings: Settings,
    records: Records,
    supervisor: Supervisor,
    registry: Registry,
    blobs: Blobs,
    preflight: Preflight,
) -> JobPreflight:
    return JobPreflight(
        records,
        settings.runs_dir,
        base=partial(_base_directory, supervisor),
        adapter=partial(_version_directory, registry, blobs),
        preflight=preflight,
        threads=_training_threads(settings.train_processes),
        processes=settings.train_processes,
    )


async def _compile(
    compiler: AdapterCompiler,
    supervisor: Supervisor,
    settings: Settings,
    source: Path,
    out: Path,
    compress_to: int | None,
) -> CompileReport:
    info = supervisor.known_info()
    return await compiler.compile(
        source,
        out,
        base=info.directory,
        max_rank=info.max_rank,
        compress_to=compress_to,
        resource_limits=settings.resource_limits,
    )


def _worker(state: AppState) -> Worker:
    """Return the worker that runs beside the server."""
    return Worker(state.records, state.settings.runs_dir, RunPublisher(state), worker_name())


def _training_threads(processes: int) -> int:
    """Return how many threads each process of a run gets: together they leave half of the machine to the server."""
    return max(1, (os.cpu_count() or 1) // 2 // processes)


async def _base_directory(supervisor: Supervisor) -> Path:
    return (await supervisor.wait_for_info()).directory


async def _version_directory(registry: Registry, blobs: Blobs, name: str) -> Path:
    """Return where the files of the version called ``name`` lie.

    Raises:
        NotFound: it was deleted.
    """
    return await blobs.path(registry.catalog.resolve(Reference.parse(name)).digest)


def _check_base(supervisor: Supervisor, adapter: Path) -> None:
    info = supervisor.known_info()
    BaseIdentity.of(info.served_names, info.directory, info.base.architectures).check(adapter)


async def _door(
    inspector: Inspector, supervisor: Supervisor, settings: Settings, directory: Path, out: Path
) -> Canonical:
    info = supervisor.known_info()
    limits = AdapterLimits(max_rank=info.max_rank, max_bytes=settings.max_upload_bytes)
    return await inspector.canonicalize(directory, out, info.base, limits, settings.resource_limits)


async def _warm(serving: Serving, registry: Registry, recent: Sequence[Version]) -> None:
    """Load what is pinned and what was in use, ahead of traffic; one that cannot be loaded keeps nobody waiting."""
    catalog, fingerprint = registry.catalog, serving.info.base.fingerprint
    wanted = dict.fromkeys([*catalog.pinned(), *filter(catalog.is_living, recent)])
    fitting = [version for version in wanted if version.base_fingerprint == fingerprint]
    for version in await serving.residency.warm(fitting):
        log.warning("could not be made resident again", version=version.name)


async def _sweep(blobs: Blobs, registry: Registry, records: Records, settings: Settings) -> None:
    while True:
        await asyncio.sleep(settings.sweep_interval_s)
        removed = await blobs.sweep(await registry.digests(), settings.sweep_grace_s)
        if removed:
            log.info("swept orphaned blobs", digests=removed)
        if gone := await records.files.sweep(settings.sweep_grace_s):
            log.info("swept files that expired or that nobody owns", files=gone)
