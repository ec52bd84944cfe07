"""OpenAI's files in responses: https://platform.openai.com/docs/api-reference/files/object"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from server.http.schemas.response import ResponseObject, UnixTime
from trainer.files.file import Purpose


class FileObject(ResponseObject):
    """A file without its bytes."""

    object: Literal["file"] = "file"
    id: str
    bytes: int = Field(validation_alias="size_bytes")
    created_at: UnixTime
    expires_at: UnixTime | None
    filename: str
    purpose: Purpose
    status: Literal["processed"] = "processed"
    status_details: None = None
