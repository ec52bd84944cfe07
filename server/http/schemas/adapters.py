"""Adapters in responses."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from adapters.versions import Adapter
from server.http.schemas.response import ResponseObject, UnixTime


class AdapterObject(ResponseObject):
    """An adapter with its aliases and the number of its newest version."""

    cursor_field: ClassVar[str] = "name"

    object: Literal["adapter"] = "adapter"
    name: str
    created_at: UnixTime
    latest_version: int | None
    version_count: int
    aliases: dict[str, int]

    @classmethod
    def from_adapter(cls, adapter: Adapter) -> Self:
        """Return the response that shows ``adapter``."""
        return cls(
            name=adapter.name,
            created_at=adapter.created_at,
            latest_version=max(adapter.versions, default=None),
            version_count=len(adapter.versions),
            aliases={name: alias.version for name, alias in adapter.aliases.items()},
        )


class DeletedAdapter(ResponseObject):
    """The confirmation that an adapter was deleted."""

    object: Literal["adapter"] = "adapter"
    name: str
    deleted: Literal[True] = True
