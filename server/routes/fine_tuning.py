"""Fine-tuning jobs, their events, checkpoints and permissions on checkpoints. OpenAI's routes."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Mapping
from typing import Final, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from server.http.schemas.adapters import Json, list_json
from server.http.schemas.fine_tuning import (
    checkpoint_json,
    event_json,
    job_json,
    page_json,
    permission_json,
)
from server.http.schemas.fine_tuning_requests import JobBody, PermissionsBody
from server.operations.run_publisher import RunPublisher
from server.routes.inputs import StateOf
from server.routes.servability import servable_extension
from trainer.errors import InvalidField
from trainer.jobs.events import Event

router = APIRouter(prefix="/v1/fine_tuning", tags=["fine-tuning"])

_METADATA: Final = re.compile(r"metadata\[(.*)\]", re.DOTALL)


@router.post("/jobs")
async def create(body: JobBody, state: StateOf) -> Json:
    """Create a job; its files are checked next, and then it waits for a worker or has failed."""
    job = await state.records.jobs.create(body.draft(servable_extension(body, state)))
    state.job_preflight.notify()
    return job_json(job)


@router.get("/jobs")
async def list_jobs(request: Request, state: StateOf, after: str | None = None, limit: int = 20) -> Json:
    """List the jobs, newest first: those that carry ``metadata[k]=v``, or with ``metadata=null`` those without any."""
    return page_json(await state.records.jobs.list(after=after, limit=limit, metadata=_wanted(request)), job_json)


@router.get("/jobs/{job_id}")
async def show(job_id: str, state: StateOf) -> Json:
    """Show a job."""
    return job_json(await state.records.jobs.get(job_id))


@router.post("/jobs/{job_id}/cancel")
async def cancel(job_id: str, state: StateOf) -> Json:
    """End a job at once."""
    return job_json(await state.records.jobs.cancel(job_id))


@router.post("/jobs/{job_id}/pause")
async def pause(job_id: str, state: StateOf) -> Json:
    """Pause a job, a running one after its next checkpoint."""
    return job_json(await state.records.jobs.pause(job_id))


@router.post("/jobs/{job_id}/resume")
async def resume(job_id: str, state: StateOf) -> Json:
    """Let a paused job go on."""
    return job_json(await state.records.jobs.resume(job_id))


@router.get("/jobs/{job_id}/events", response_model=None)
async def events(
    job_id: str,
    state: StateOf,
    *,
    after: str | None = None,
    limit: int = 20,
    stream: bool = False,
) -> Json | Response:
    """List a job's events, newest first. With ``stream`` all since ``after`` come as they happen, oldest first."""
    page = await state.records.events.list(job_id, after=after, limit=limit)
    if not stream:
        return page_json(page, event_json)
    return StreamingResponse(_sent(state.records.events.follow(job_id, after=after)), media_type="text/event-stream")


@router.post("/jobs/{job_id}/checkpoints/{step}/publish")
async def publish_checkpoint(job_id: str, step: int, state: StateOf) -> Json:
    """Publish a checkpoint from its run directory, for a worker beside the server; done once, however often asked."""
    return {"object": "model", "id": await RunPublisher(state).checkpoint(job_id, step)}


@router.post("/jobs/{job_id}/publish")
async def publish_result(job_id: str, state: StateOf) -> Json:
    """Publish a job's result from its run directory, for a worker beside the server; done once, however often asked."""
    return {"object": "model", "id": await RunPublisher(state).result(job_id)}


@router.get("/jobs/{job_id}/checkpoints")
async def checkpoints(job_id: str, state: StateOf, after: str | None = None, limit: int = 10) -> Json:
    """List a job's checkpoints, newest first."""
    return page_json(await state.records.checkpoints.list(job_id, after=after, limit=limit), checkpoint_json)


@router.get("/checkpoints/{checkpoint:path}/permissions")
async def permissions(
    checkpoint: str,
    state: StateOf,
    after: str | None = None,
    limit: int = 10,
    order: Literal["ascending", "descending"] = "descending",
    project_id: str | None = None,
) -> Json:
    """List the permissions recorded on a checkpoint. They have no effect, as ``enforced`` says."""
    page = await state.records.checkpoints.permissions(
        checkpoint, after=after, limit=limit, newest_first=order == "descending", project_id=project_id
    )
    return page_json(page, permission_json)


@router.post("/checkpoints/{checkpoint:path}/permissions")
async def permit(checkpoint: str, body: PermissionsBody, state: StateOf) -> Json:
    """Record permissions of other projects on a checkpoint, for OpenAI's clients; they have no effect.

    This server has no projects: every key with access to inference may use every checkpoint.
    """
    permitted = await state.records.checkpoints.permit(checkpoint, body.project_ids)
    return list_json([permission_json(permission) for permission in permitted], has_more=False)


@router.delete("/checkpoints/{checkpoint:path}/permissions/{permission_id}")
async def forbid(checkpoint: str, permission_id: str, state: StateOf) -> Json:
    """Delete a permission that was recorded on a checkpoint."""
    await state.records.checkpoints.forbid(checkpoint, permission_id)
    return {"object": "checkpoint.permission", "id": permission_id, "deleted": True}


def _wanted(request: Request) -> Mapping[str, str] | None:
    """Return the pairs of metadata that are asked for; None: jobs without any."""
    query = request.query_params
    pairs = {found[1]: value for name, value in query.items() if (found := _METADATA.fullmatch(name))}
    if "metadata" not in query:
        return pairs
    if query["metadata"] != "null" or pairs:
        raise InvalidField("metadata is asked for as metadata[key]=value, or as metadata=null alone", param="metadata")
    return None


async def _sent(events: AsyncIterator[Event]) -> AsyncIterator[str]:
    async for event in events:
        yield f"data: {json.dumps(event_json(event))}\n\n"
    yield "data: [DONE]\n\n"
