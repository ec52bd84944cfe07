"""Files: uploaded, listed, downloaded, deleted. OpenAI's routes."""

from collections.abc import AsyncIterator, Mapping
from tempfile import TemporaryFile
from typing import IO, Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, Query, Request

from adapters.storage.disk import append, in_thread, space_needed
from server.errors import InvalidRequest
from server.http.download import Download
from server.http.multipart import MultipartStream
from server.http.schemas.base import DeletedObject, ListObject
from server.http.schemas.fine_tuning import FileObject
from server.routes.dependencies import CallerDep, ProjectDep, StateDep, check_stored
from trainer.errors import FileTooLarge, InvalidField
from trainer.files.file import UPLOADABLE, base_name, check_uploadable
from trainer.files.file_store import EXPIRY_S
from trainer.page import MAX_LIMIT


async def _check_file(request: Request, state: StateDep, project: ProjectDep) -> None:
    """Check that the file in the path is of the caller's project; FileNotFound for another one."""
    if (file_id := request.path_params.get("file_id")) is not None:
        await state.records.files.get(file_id, project)


router = APIRouter(prefix="/v1/files", tags=["files"], dependencies=[Depends(_check_file)])

_PIECE_BYTES: Final = 1 << 20
_MOST_FIELD_BYTES: Final = 1024
_FIELDS: Final = frozenset({"purpose", "file", "expires_after[anchor]", "expires_after[seconds]"})
_FORM: Final[Mapping[str, Any]] = {
    "type": "object",
    "required": ["purpose", "file"],
    "properties": {
        "purpose": {"type": "string", "enum": sorted(UPLOADABLE)},
        "file": {"type": "string", "format": "binary"},
        "expires_after[anchor]": {"type": "string", "const": "created_at"},
        "expires_after[seconds]": {"type": "integer", "minimum": EXPIRY_S[0], "maximum": EXPIRY_S[-1]},
    },
    "additionalProperties": False,
}
"""The form in the OpenAPI schema: it is read as a stream, so FastAPI does not know it."""


@router.post(
    "",
    dependencies=[Depends(check_stored)],
    openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}}},
)
async def upload(request: Request, state: StateDep, caller: CallerDep) -> FileObject:
    """Store a file: multipart/form-data with ``purpose``, ``file`` and, in brackets, ``expires_after``.

    The fields come in any order, so the file is staged on disk until all of them are known.
    """
    stream = MultipartStream(request, needed="the fields purpose and file")
    data_dir = state.settings.data_dir
    with space_needed(data_dir), TemporaryFile(dir=data_dir) as staged:  # unnamed: a crash leaves nothing
        fields = await _receive(stream, staged, state.settings.max_file_bytes)
        check_uploadable(fields.get("purpose"))
        if "file" not in fields:
            raise InvalidField("send the file in the field 'file'", param="file")
        await state.accounts.quotas.check_stored(caller.project, staged.tell())
        await in_thread(staged.seek, 0)
        file = await state.records.files.create(
            fields["purpose"],
            fields["file"],
            _pieces(staged),
            expires_after_s=_expiry(fields),
            project=caller.project,
        )
    return FileObject.model_validate(file)


@router.get("")
async def list_files(
    state: StateDep,
    project: ProjectDep,
    after: str | None = None,
    limit: int = MAX_LIMIT,
    order: Literal["asc", "desc"] = "desc",
    purpose: Annotated[str | None, Query(description="List only files for this purpose.")] = None,
) -> ListObject[FileObject]:
    """List the files; ``after`` is a file's id."""
    page = await state.records.files.list(
        after=after, limit=limit, newest_first=order == "desc", purpose=purpose, project=project
    )
    return ListObject[FileObject].model_validate(page)


@router.get("/{file_id}")
async def show(file_id: str, state: StateDep) -> FileObject:
    """Show a file."""
    return FileObject.model_validate(await state.records.files.get(file_id))


@router.get("/{file_id}/content", response_class=Download)
async def content(file_id: str, state: StateDep) -> Download:
    """Download a file; ranges are answered."""
    file = await state.records.files.get(file_id)
    path = await state.records.files.content(file_id)
    return Download(path, filename=file.filename, media_type=Download.media_type)


@router.delete("/{file_id}")
async def delete(file_id: str, state: StateDep) -> DeletedObject:
    """Delete a file that no unfinished job needs."""
    await state.records.files.delete(file_id)
    return DeletedObject(object="file", id=file_id)


async def _receive(stream: MultipartStream, staged: IO[bytes], limit: int) -> dict[str, str]:
    """Write the file to ``staged``; return the form's fields as text, with the file's name for the file."""
    fields: dict[str, str] = {}
    async for name, file_name, chunks in stream.fields():
        if name not in _FIELDS or name in fields:
            raise InvalidRequest(f"the form has {name!r:.100} twice, or the field is unknown", param=name[:100])
        if name == "file":
            fields[name] = base_name(file_name or "file")
            await _stage(chunks, staged, limit)
        else:
            fields[name] = await _text(name, chunks)
        if name == "purpose":
            check_uploadable(fields[name])
    return fields


async def _stage(chunks: AsyncIterator[bytes], staged: IO[bytes], limit: int) -> None:
    size, piece = 0, bytearray()
    async for chunk in chunks:
        size += len(chunk)
        if size > limit:
            raise FileTooLarge(
                f"the file has more than the {limit} bytes this server accepts: split it, or start the server with a "
                "larger --max-file-bytes",
                param="file",
            )
        piece += chunk
        if len(piece) >= _PIECE_BYTES:
            await in_thread(append, staged, bytes(piece))
            piece.clear()
    await in_thread(append, staged, bytes(piece))


async def _text(name: str, chunks: AsyncIterator[bytes]) -> str:
    text = b""
    async for chunk in chunks:
        text += chunk
        if len(text) > _MOST_FIELD_BYTES:
            raise InvalidRequest(f"the field {name} is longer than {_MOST_FIELD_BYTES} bytes", param=name)
    return text.decode("utf-8", "replace")


async def _pieces(staged: IO[bytes]) -> AsyncIterator[bytes]:
    while piece := await in_thread(staged.read, _PIECE_BYTES):
        yield piece


def _expiry(fields: dict[str, str]) -> int | None:
    """Return the seconds from upload to expiry; None: the form has no expiry."""
    anchor, seconds = fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise InvalidField("expires_after.anchor is 'created_at'", param="expires_after.anchor")
    if seconds is None or not seconds.isdecimal():
        raise InvalidField("expires_after.seconds is a number", param="expires_after.seconds")
    return int(seconds)
