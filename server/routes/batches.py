"""Batches: created, listed, shown, cancelled. OpenAI's routes; ``server.batches`` works on them."""

from fastapi import APIRouter, Depends, Request

from server.errors import ApiKeyNeeded
from server.http.schemas.base import ListObject
from server.http.schemas.batches import BatchBody, BatchObject
from server.routes.dependencies import CallerDep, ProjectDep, StateDep


async def _check_batch(request: Request, state: StateDep, project: ProjectDep) -> None:
    """Check that the batch in the path is of the caller's project; BatchNotFound for another one."""
    if (batch_id := request.path_params.get("batch_id")) is not None:
        await state.batches.get(batch_id, project)


router = APIRouter(prefix="/v1/batches", tags=["batches"], dependencies=[Depends(_check_batch)])


@router.post("")
async def create(body: BatchBody, state: StateDep, caller: CallerDep) -> BatchObject:
    """Create a batch; its file is checked next, and then its lines are sent or it has failed."""
    if caller.has_token:
        raise ApiKeyNeeded(
            "the lines of a batch are sent for up to a day, and a bearer token expires before: create the batch with "
            "an API key, which an operator makes with `patchbay keys create NAME --scope files --scope infer`"
        )
    await state.accounts.quotas.check_stored(caller.project)
    return BatchObject.from_batch(await state.batches.create(body.draft(caller.key_id, caller.project)))


@router.get("")
async def list_batches(
    state: StateDep, project: ProjectDep, after: str | None = None, limit: int = 20
) -> ListObject[BatchObject]:
    """List the batches, newest first; ``after`` is a batch's id."""
    page = await state.batches.list(after=after, limit=limit, project=project)
    return ListObject[BatchObject](data=map(BatchObject.from_batch, page.data), has_more=page.has_more)


@router.get("/{batch_id}")
async def show(batch_id: str, state: StateDep) -> BatchObject:
    """Show a batch."""
    return BatchObject.from_batch(await state.batches.get(batch_id))


@router.post("/{batch_id}/cancel")
async def cancel(batch_id: str, state: StateDep) -> BatchObject:
    """Let a batch end with the results it has by now."""
    return BatchObject.from_batch(await state.batches.cancel(batch_id))
