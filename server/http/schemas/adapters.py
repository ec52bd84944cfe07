"""Adapters and their aliases in requests and responses."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field

from adapters.names import DEFAULT_ALIAS
from adapters.versions import Adapter
from server.http.schemas.body import Body
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


class PromoteBody(Body):
    """Body of a promotion."""

    version: int = Field(ge=1)


class MoveBody(PromoteBody):
    """Body of an alias move."""

    expected: int | None = Field(None, description="The version it must point to now; null: it must not exist.")
    generation: int | None = Field(None, description="The generation it must have now.")


class RollbackBody(Body):
    """Body of a rollback."""

    alias: str = DEFAULT_ALIAS


class AliasObject(ResponseObject):
    """An alias; its ``generation`` is what a compare-and-set may require."""

    cursor_field: ClassVar[str] = "alias"

    object: Literal["adapter.alias"] = "adapter.alias"
    adapter: str
    alias: str = Field(validation_alias="name")
    version: int
    generation: int
    updated_at: UnixTime


class AliasMoveObject(ResponseObject):
    """One move of an alias; ``from`` is null for its creation, ``to`` for its deletion."""

    object: Literal["adapter.alias.move"] = "adapter.alias.move"
    from_version: int | None = Field(serialization_alias="from")
    to_version: int | None = Field(serialization_alias="to")
    generation: int
    at: UnixTime


class AliasHistory(AliasObject):
    """An alias with its moves, oldest first."""

    moves: list[AliasMoveObject]


class DeletedAlias(ResponseObject):
    """The confirmation that an alias was deleted."""

    object: Literal["adapter.alias"] = "adapter.alias"
    adapter: str
    alias: str
    deleted: Literal[True] = True
