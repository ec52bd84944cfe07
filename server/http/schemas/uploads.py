"""OpenAI's uploads in requests and responses. https://platform.openai.com/docs/api-reference/uploads"""

from typing import Literal

from pydantic import Field

from server.http.schemas.base import Body, ExpiresAfter, ResponseObject, UnixTime
from server.http.schemas.fine_tuning import FileObject
from trainer.files.file import Purpose
from trainer.files.upload import UploadStatus


class UploadBody(Body):
    """Body of a new upload."""

    bytes: int = Field(ge=1, le=2**63 - 1, description="Size of the whole file.")
    filename: str
    mime_type: str = Field(description="Has no effect: a file's purpose says how it is read.")
    purpose: str
    expires_after: ExpiresAfter | None = None


class CompleteUploadBody(Body):
    """Body of the completion: the parts in their order."""

    part_ids: list[str] = Field(min_length=1, max_length=10_000)
    md5: str | None = Field(None, description="MD5 of the whole file in hex digits, to be compared.")


class UploadObject(ResponseObject):
    """An upload; ``file`` once it is completed."""

    object: Literal["upload"] = "upload"
    id: str
    bytes: int = Field(validation_alias="size_bytes")
    created_at: UnixTime
    expires_at: UnixTime
    filename: str
    purpose: Purpose
    status: UploadStatus
    file: FileObject | None


class UploadPartObject(ResponseObject):
    """A part of an upload."""

    object: Literal["upload.part"] = "upload.part"
    id: str
    created_at: UnixTime
    upload_id: str
