"""The bases of JSON request and response models; lists and deletions in OpenAI's shapes."""

import re
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any, ClassVar, Final, Generic, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, field_validator, model_validator
from pydantic_core import PydanticCustomError

from trainer.files.file_store import EXPIRY_S

Json = dict[str, Any]

UnixTime = Annotated[datetime, PlainSerializer(lambda time: int(time.timestamp()), return_type=int)]
"""A time; the response has it in Unix seconds."""

_UNSTORABLE: Final = re.compile("[\0\ud800-\udfff]")


class Body(BaseModel):
    """A JSON body. An unknown key is an error, so that a typo is never ignored.

    Text that databases refuse is an error too: JSON can escape NUL, and half a surrogate pair, which UTF-8 lacks.
    """

    model_config = ConfigDict(extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _is_storable(cls, value: object) -> object:
        if any(map(_UNSTORABLE.search, _texts(value))):
            raise PydanticCustomError("text", "Input should have neither NUL nor half a surrogate pair in its text")
        return value


class ExpiresAfter(Body):
    """When a file is deleted, counted from its creation."""

    anchor: Literal["created_at"]
    seconds: int = Field(ge=EXPIRY_S[0], le=EXPIRY_S[-1])


def _texts(value: object) -> Iterator[str]:
    """Yield every string in parsed JSON. No recursion: JSON may be nested as deep as Python's stack."""
    pending = [value]
    while pending:
        match pending.pop():
            case str(text):
                yield text
            case dict(entries):
                pending += [*entries, *entries.values()]
            case list(entries):
                pending += entries


class ResponseObject(BaseModel):
    """A JSON response. ``model_validate`` makes it of a value that has its fields as attributes.

    Fields with a default are always sent, so the schema lists them as required.
    """

    model_config = ConfigDict(from_attributes=True, json_schema_serialization_defaults_required=True)

    cursor_field: ClassVar[str] = "id"
    """In a list: the field whose value a client sends as ``after`` to get the entries that follow."""


EntryT = TypeVar("EntryT", bound=ResponseObject)


class ListObject(ResponseObject, Generic[EntryT]):
    """A page of a list; ``last_id`` is what to send as ``after`` to get the next page."""

    object: Literal["list"] = "list"
    data: list[EntryT]
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool = False

    @model_validator(mode="after")
    def _set_ids(self) -> Self:
        if self.data:
            self.first_id, self.last_id = (getattr(self.data[at], self.data[at].cursor_field) for at in (0, -1))
        return self


class DeletedObject(ResponseObject):
    """The confirmation of a deletion."""

    object: str
    id: str
    deleted: Literal[True] = True
