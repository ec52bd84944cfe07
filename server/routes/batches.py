"""Batches: created, listed, shown, cancelled. OpenAI's routes; ``server.batches`` works on them."""

from fastapi import APIRouter

from server.http.schemas.base import ListObject
from server.http.schemas.batches import BatchBody, BatchObject
from server.routes.dependencies import KeyIdDep, StateDep

router = APIRouter(prefix="/v1/batches", tags=["batches"])


@router.post("")
async def create(body: BatchBody, state: StateDep, key_id: KeyIdDep) -> BatchObject:
    """Create a batch; its file is checked next, and then its lines are sent or it has failed."""
    return BatchObject.from_batch(await state.batches.create(body.draft(key_id)))


@router.get("")
async def list_batches(state: StateDep, after: str | None = None, limit: int = 20) -> ListObject[BatchObject]:
    """List the batches, newest first; ``after`` is a batch's id."""
    page = await state.batches.list(after=after, limit=limit)
    return ListObject[BatchObject](data=map(BatchObject.from_batch, page.data), has_more=page.has_more)


@router.get("/{batch_id}")
async def show(batch_id: str, state: StateDep) -> BatchObject:
    """Show a batch."""
    return BatchObject.from_batch(await state.batches.get(batch_id))


@router.post("/{batch_id}/cancel")
async def cancel(batch_id: str, state: StateDep) -> BatchObject:
    """Let a batch end with the results it has by now."""
    return BatchObject.from_batch(await state.batches.cancel(batch_id))
