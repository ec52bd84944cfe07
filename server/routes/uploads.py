"""Uploads: a file in parts. OpenAI's routes."""

from collections.abc import Mapping
from typing import Any, Final

from fastapi import APIRouter, Depends, Request

from server.errors import InvalidRequest
from server.http.multipart import MultipartStream
from server.http.schemas.uploads import CompleteUploadBody, UploadBody, UploadObject, UploadPartObject
from server.routes.dependencies import CallerDep, ProjectDep, StateDep, check_stored
from trainer.files.file import base_name


async def _check_upload(request: Request, state: StateDep, project: ProjectDep) -> None:
    """Check that the upload in the path is of the caller's project; UploadNotFound for another one."""
    if (upload_id := request.path_params.get("upload_id")) is not None:
        await state.records.uploads.check(upload_id, project)


router = APIRouter(prefix="/v1/uploads", tags=["files"], dependencies=[Depends(_check_upload)])

_FORM: Final[Mapping[str, Any]] = {
    "type": "object",
    "required": ["data"],
    "properties": {"data": {"type": "string", "format": "binary"}},
    "additionalProperties": False,
}
"""The form in the OpenAPI schema: it is read as a stream, so FastAPI does not know it."""


@router.post("")
async def create(body: UploadBody, state: StateDep, caller: CallerDep) -> UploadObject:
    """Create an upload; it expires after an hour."""
    await state.accounts.quotas.check_stored(caller.project, body.bytes)
    upload = await state.records.uploads.create(
        body.purpose,
        base_name(body.filename),
        body.bytes,
        file_expires_after_s=None if body.expires_after is None else body.expires_after.seconds,
        project=caller.project,
    )
    return UploadObject.model_validate(upload)


@router.post(
    "/{upload_id}/parts",
    dependencies=[Depends(check_stored)],
    openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}}},
)
async def add_part(upload_id: str, request: Request, state: StateDep) -> UploadPartObject:
    """Store a part: multipart/form-data with ``data``, of at most 64 MiB."""
    part = None
    async for name, _, chunks in MultipartStream(request, needed="the field data").fields():
        if name != "data" or part is not None:
            raise InvalidRequest(f"the form has {name!r:.100} twice, or the field is unknown", param=name[:100])
        part = await state.records.uploads.add_part(upload_id, chunks)
    if part is None:
        raise InvalidRequest("send the part in the field 'data'", param="data")
    return UploadPartObject.model_validate(part)


@router.post("/{upload_id}/complete")
async def complete(upload_id: str, body: CompleteUploadBody, state: StateDep) -> UploadObject:
    """Join the parts to a file."""
    upload = await state.records.uploads.complete(upload_id, body.part_ids, md5=body.md5)
    return UploadObject.model_validate(upload)


@router.post("/{upload_id}/cancel")
async def cancel(upload_id: str, state: StateDep) -> UploadObject:
    """End an upload without a file."""
    return UploadObject.model_validate(await state.records.uploads.cancel(upload_id))
