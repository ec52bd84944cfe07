"""Fine-tuning: jobs, their events and checkpoints, permissions on checkpoints, graders. OpenAI's routes."""

import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from time import perf_counter
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, Query, Request
from structlog.contextvars import get_contextvars

from adapters.storage.disk import in_thread
from server.access.caller import caller_of
from server.errors import ApiKeyNeeded, InvalidRequest
from server.gateway.gateway import REQUEST_ID
from server.http.download import Download
from server.http.event_stream import KEEP_ALIVE, SILENCE_S, STOPPING, EventStream
from server.http.schemas.adapters import VersionFile
from server.http.schemas.base import DeletedObject, ListObject
from server.http.schemas.fine_tuning import (
    CheckpointObject,
    EventObject,
    GradeBody,
    GradeObject,
    JobObject,
    PermissionObject,
    PolicyAnswersObject,
    PublishedModel,
    ValidateBody,
    ValidatedGrader,
)
from server.http.schemas.fine_tuning_requests import JobBody, PermissionsBody
from server.operations.grader_client import GraderClient, as_caller
from server.operations.run_publisher import RunPublisher
from server.operations.run_sampler import RunSampler
from server.routes.dependencies import CallerDep, ProjectDep, StateDep
from server.routes.servability import servable_extension, served_teacher
from server.state import AppState
from trainer.errors import InvalidField
from trainer.graders.grader import Grader, Sample
from trainer.graders.parsing import parse
from trainer.jobs.event_log import EventLog
from trainer.policy_sampling import PolicyRequest
from trainer.run_directory import RunDirectory


async def _check_path(request: Request, state: StateDep, project: ProjectDep) -> None:
    """Check that the job or the checkpoint in the path is of the caller's project.

    Raises:
        JobNotFound, CheckpointNotFound: it is not, or does not exist.
    """
    if (job_id := request.path_params.get("job_id")) is not None:
        await state.records.jobs.get(job_id, project)
    if (checkpoint := request.path_params.get("checkpoint")) is not None:
        await state.records.checkpoints.check(checkpoint, project)


router = APIRouter(prefix="/v1/fine_tuning", tags=["fine-tuning"], dependencies=[Depends(_check_path)])

_METADATA: Final = re.compile(r"metadata\[(.*)\]", re.DOTALL)
_KEY_HEADERS: Final = ("authorization", "x-api-key")
ClaimToken = Annotated[int | None, Query(description="Token of the worker's claim; refused once the job is another's.")]


@router.post("/jobs")
async def create(body: JobBody, request: Request, state: StateDep, caller: CallerDep) -> JobObject:
    """Create a job; its files are checked next, and then it waits for a worker or has failed."""
    await state.accounts.quotas.check_job(caller)
    for place, definition in body.graders.items():
        grader = parse(definition, place)
        await grader.check(_models(request, state), place)
        if grader.asks_models and caller.has_token:
            raise ApiKeyNeeded(
                "the grader asks models while the job trains, and a bearer token expires before: create the job with an"
                " API key, which an operator makes with `patchbay keys create NAME --scope training --scope infer`"
            )
    extension = await servable_extension(body, state, caller)
    teacher = await served_teacher(body, state, caller)
    draft = body.draft(extension, caller, state.engine.info.base.fingerprint, teacher=teacher)
    job = await state.records.jobs.create(draft)
    state.job_preflight.notify()
    return JobObject.from_job(job)


@router.get("/jobs")
async def list_jobs(
    request: Request,
    state: StateDep,
    project: ProjectDep,
    after: str | None = None,
    limit: int = 20,
    metadata: Annotated[str | None, Query(description="Jobs with `metadata[k]=v`; `null`: jobs without any.")] = None,
) -> ListObject[JobObject]:
    """List the jobs, newest first: those that carry ``metadata[k]=v``, or with ``metadata=null`` those without any."""
    pairs = _pairs(request, metadata)
    page = await state.records.jobs.list(after=after, limit=limit, metadata=pairs, project=project)
    return ListObject[JobObject](data=map(JobObject.from_job, page.data), has_more=page.has_more)


@router.get("/jobs/{job_id}")
async def show(job_id: str, state: StateDep) -> JobObject:
    """Show a job."""
    return JobObject.from_job(await state.records.jobs.get(job_id))


@router.post("/jobs/{job_id}/cancel")
async def cancel(job_id: str, state: StateDep) -> JobObject:
    """End a job at once."""
    return JobObject.from_job(await state.records.jobs.cancel(job_id))


@router.post("/jobs/{job_id}/pause")
async def pause(job_id: str, state: StateDep) -> JobObject:
    """Pause a job, a running one after its next checkpoint."""
    return JobObject.from_job(await state.records.jobs.pause(job_id))


@router.post("/jobs/{job_id}/resume")
async def resume(job_id: str, state: StateDep) -> JobObject:
    """Let a paused job go on."""
    job = await state.records.jobs.get(job_id)
    await state.accounts.quotas.check_training(job.key_id, job.project)
    return JobObject.from_job(await state.records.jobs.resume(job_id))


@router.get("/jobs/{job_id}/events", response_model=ListObject[EventObject], responses=EventStream.DECLARED)
async def events(
    job_id: str, state: StateDep, *, after: str | None = None, limit: int = 20, stream: bool = False
) -> ListObject[EventObject] | EventStream:
    """List a job's events, newest first. With ``stream`` all since ``after`` come as they happen, oldest first.

    The stream ends with ``[DONE]`` once the job has. It ends without when the server stops: go on with ``after``.
    """
    page = await state.records.events.list(job_id, after=after, limit=limit)
    if stream:
        return EventStream(_sent(state.records.events, job_id, after))
    return ListObject[EventObject].model_validate(page)


@router.post("/jobs/{job_id}/checkpoints/{step}/publish")
async def publish_checkpoint(
    job_id: str, step: int, request: Request, state: StateDep, claim: ClaimToken = None
) -> PublishedModel:
    """Publish a checkpoint from its run directory, for a worker beside the server; repeating it changes nothing."""
    return PublishedModel(id=await _publisher(request, state).checkpoint(job_id, step, claim))


@router.post("/jobs/{job_id}/publish")
async def publish_result(job_id: str, request: Request, state: StateDep, claim: ClaimToken = None) -> PublishedModel:
    """Publish a job's result from its run directory, for a worker beside the server; repeating it changes nothing."""
    return PublishedModel(id=await _publisher(request, state).result(job_id, claim))


@router.post("/jobs/{job_id}/policy_answers")
async def draw(
    job_id: str, body: PolicyRequest, request: Request, state: StateDep, claim: ClaimToken = None
) -> PolicyAnswersObject:
    """Draw answers of the policy in a job's run directory and grade them, for a worker beside the server."""
    drawn = await RunSampler(state, request.app.state.gateway.deferred).sample(job_id, body, claim)
    return PolicyAnswersObject(answers=drawn.answers)


@router.get("/jobs/{job_id}/checkpoints")
async def checkpoints(
    job_id: str, state: StateDep, after: str | None = None, limit: int = 10
) -> ListObject[CheckpointObject]:
    """List a job's checkpoints, newest first."""
    page = await state.records.checkpoints.list(job_id, after=after, limit=limit)
    return ListObject[CheckpointObject].model_validate(page)


@router.get("/jobs/{job_id}/model")
async def whole_model(job_id: str, state: StateDep) -> ListObject[VersionFile]:
    """List the files of the model that a job of method ``full`` trained whole: a base model to serve."""
    directory = await in_thread(RunDirectory(state.settings.runs_dir / job_id).whole_model)
    return ListObject[VersionFile](
        data=[
            VersionFile(
                name=file.name, size_bytes=file.stat().st_size, path=f"{router.prefix}/jobs/{job_id}/model/{file.name}"
            )
            for file in sorted(directory.iterdir())
        ]
    )


@router.get("/jobs/{job_id}/model/{file}", response_class=Download)
async def download(job_id: str, file: str, state: StateDep) -> Download:
    """Download one file of a model that was trained whole; ranges are answered."""
    directory = await in_thread(RunDirectory(state.settings.runs_dir / job_id).whole_model)
    if file not in (names := sorted(path.name for path in directory.iterdir())):
        raise InvalidRequest(f"this model has the files {', '.join(names)}, not {file!r}", param="file")
    return Download(directory / file, filename=file, media_type=Download.media_type)


@router.get("/checkpoints/{checkpoint:path}/permissions")
async def permissions(
    checkpoint: str,
    state: StateDep,
    after: str | None = None,
    limit: int = 10,
    order: Literal["ascending", "descending"] = "descending",
    project_id: str | None = None,
) -> ListObject[PermissionObject]:
    """List the permissions recorded on a checkpoint. They have no effect, as ``enforced`` says."""
    page = await state.records.checkpoints.permissions(
        checkpoint, after=after, limit=limit, newest_first=order == "descending", project_id=project_id
    )
    return ListObject[PermissionObject].model_validate(page)


@router.post("/checkpoints/{checkpoint:path}/permissions")
async def permit(checkpoint: str, body: PermissionsBody, state: StateDep) -> ListObject[PermissionObject]:
    """Record permissions of other projects on a checkpoint, for OpenAI's clients; they have no effect.

    ``PUT /v1/adapters/{name}/shares/{project}`` lets another project use an adapter, with its checkpoints.
    """
    return ListObject[PermissionObject](data=await state.records.checkpoints.permit(checkpoint, body.project_ids))


@router.delete("/checkpoints/{checkpoint:path}/permissions/{permission_id}")
async def forbid(checkpoint: str, permission_id: str, state: StateDep) -> DeletedObject:
    """Delete a permission that was recorded on a checkpoint."""
    await state.records.checkpoints.forbid(checkpoint, permission_id)
    return DeletedObject(object="checkpoint.permission", id=permission_id)


@router.post("/alpha/graders/validate")
async def validate(body: ValidateBody, request: Request, state: StateDep) -> ValidatedGrader:
    """Validate a grader: its fields, and that the models it names exist."""
    await _checked(body.grader, _models(request, state))
    return ValidatedGrader(grader=body.grader)


@router.post("/alpha/graders/run")
async def run(body: GradeBody, request: Request, state: StateDep) -> GradeObject:
    """Grade one answer. What keeps the grader from a score shows in ``metadata.errors``, with a reward of 0."""
    models = _models(request, state)
    grader = await _checked(body.grader, models)
    started = perf_counter()
    grade = await grader.grade(Sample(body.model_sample, body.item or {}), models)
    return GradeObject.from_grade(grader, grade, perf_counter() - started)


async def _checked(definition: Mapping[str, Any], models: GraderClient) -> Grader:
    """Return the grader of ``definition``. Raises InvalidField, or PatchbayError where it cannot be checked."""
    grader = parse(definition, "grader")
    await grader.check(models, "grader")
    return grader


def _pairs(request: Request, metadata: str | None) -> Mapping[str, str] | None:
    """Return the pairs of metadata that the listed jobs must carry; None: jobs without metadata."""
    pairs = {found[1]: value for name, value in request.query_params.items() if (found := _METADATA.fullmatch(name))}
    if metadata is None:
        return pairs
    if metadata != "null" or pairs:
        raise InvalidField("filter by metadata[key]=value, or by metadata=null alone", param="metadata")
    return None


async def _sent(log: EventLog, job_id: str, after: str | None) -> AsyncGenerator[str]:
    """Yield a job's events as server-sent events. ASCII only: some clients end a line at U+2028 too."""
    async with aclosing(log.follow(job_id, after=after, silence_s=SILENCE_S)) as events:
        async for event in events:
            if event is None:
                yield KEEP_ALIVE
            else:
                yield f"data: {EventObject.model_validate(event).model_dump_json(ensure_ascii=True)}\n\n"
    yield STOPPING if log.is_closed else "data: [DONE]\n\n"


def _publisher(request: Request, state: AppState) -> RunPublisher:
    return RunPublisher(state, request.app.state.gateway.deferred)


def _models(request: Request, state: AppState) -> GraderClient:
    """Return a client of this server's models that sends the API key or token and the request id of ``request``."""
    keys = {name: request.headers[name] for name in _KEY_HEADERS if name in request.headers}
    headers = {**keys, REQUEST_ID: get_contextvars()["request_id"]}
    return GraderClient(state, caller_of(request.scope), as_caller(request.app.state.gateway, headers))
