"""Stored responses: shown, deleted, their input listed. OpenAI's routes; the gateway answers POST /v1/responses."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query

from server.errors import BackgroundUnsupported, InvalidRequest
from server.http.schemas.base import DeletedObject
from server.http.schemas.responses import InputItemList, InputItemObject, StoredResponseObject
from server.routes.dependencies import ProjectDep, StateDep

router = APIRouter(prefix="/v1/responses", tags=["responses"])

_Include = Annotated[list[str] | None, Query(description="Has no effect: all is included.")]


@router.get("/{response_id}")
async def show(
    response_id: str,
    state: StateDep,
    project: ProjectDep,
    *,
    include: _Include = None,
    stream: bool = False,
) -> StoredResponseObject:
    """Show a response of the caller's project."""
    if stream:
        raise InvalidRequest("a stored response is not streamed again: leave stream out", param="stream")
    response = await state.responses.get(response_id, project)
    return StoredResponseObject.model_validate(dict(response.body))


@router.delete("/{response_id}")
async def delete(response_id: str, state: StateDep, project: ProjectDep) -> DeletedObject:
    """Delete a response of the caller's project."""
    await state.responses.delete(response_id, project)
    return DeletedObject(object="response", id=response_id)


@router.post("/{response_id}/cancel")
async def cancel(response_id: str, state: StateDep, project: ProjectDep) -> StoredResponseObject:
    """Refuse: only background responses can be cancelled, and there are none."""
    await state.responses.get(response_id, project)
    raise BackgroundUnsupported(
        f"response '{response_id}' has ended: only background responses can be cancelled, which are off on this "
        "server; close the connection to cancel one that is being generated",
        param="response_id",
    )


@router.get("/{response_id}/input_items")
async def input_items(
    response_id: str,
    state: StateDep,
    project: ProjectDep,
    *,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["asc", "desc"] = "desc",
    include: _Include = None,
) -> InputItemList:
    """List the items that a response answers, those of earlier responses included; the last comes first."""
    items: list[Any] = InputItemObject.all_of(await state.responses.get(response_id, project))
    if order == "desc":
        items.reverse()
    ids = [item.id for item in items]
    if after is not None and after not in ids:
        raise InvalidRequest(
            f"no item of this response has the id '{after:.100}': leave `after` out for the first page", param="after"
        )
    start = 0 if after is None else ids.index(after) + 1
    return InputItemList(data=items[start : start + limit], has_more=len(items) > start + limit)
