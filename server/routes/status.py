"""What runs, what is loaded, what waits, what trains: the answer to ``patchbay status``."""

from datetime import UTC, datetime
from importlib.metadata import version

from fastapi import APIRouter

from server.errors import EngineNotReady
from server.http.schemas.status import StatusObject, UnfinishedJob
from server.routes.dependencies import StateDep

router = APIRouter(tags=["process"])


@router.get("/v1/status")
async def status(state: StateDep) -> StatusObject:
    """Show the state of the server, also while no engine runs."""
    try:
        running = state.engine.running()
    except EngineNotReady:
        running = None
    jobs = await state.records.jobs.unfinished()
    return StatusObject(
        version=version("patchbay"),
        started_at=datetime.fromtimestamp(state.started_at, UTC),
        engine="draining" if state.admission.is_leaving else state.engine.state,
        model=next(iter(state.engine.served_names), None),
        base_fingerprint=state.engine.info.base.fingerprint if state.engine.served_names else None,
        adapters=len(state.registry.catalog),
        residents=[] if running is None else [entry.version.name for entry in running.residency.entries()],
        max_residents=state.settings.max_residents,
        slots=None if running is None else running.engine.slots,
        active_adapters=None if running is None else running.scheduler.active,
        in_flight=state.admission.in_flight,
        waiting=None if running is None else running.scheduler.waiting,
        jobs=[UnfinishedJob(id=job.id, status=job.state, adapter=job.adapter) for job in jobs],
    )
