"""The base of response models; lists and deletions in OpenAI's shapes."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any, ClassVar, Generic, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, PlainSerializer

UnixTime = Annotated[datetime, PlainSerializer(lambda time: int(time.timestamp()), return_type=int)]
"""A time; the response has it in Unix seconds."""


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
    has_more: bool

    @classmethod
    def from_entries(cls, entries: Iterable[Any], *, has_more: bool = False) -> Self:
        """Return a page of ``entries``, which are of the entries' type or have its fields as attributes."""
        page = cls(data=list(entries), has_more=has_more)
        if page.data:
            page.first_id, page.last_id = (getattr(page.data[at], page.data[at].cursor_field) for at in (0, -1))
        return page


class DeletedObject(ResponseObject):
    """The confirmation of a deletion."""

    object: str
    id: str
    deleted: Literal[True] = True
