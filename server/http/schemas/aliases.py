"""Aliases in requests and responses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal, Self

from pydantic import Field

from adapters.names import DEFAULT_ALIAS
from adapters.registry.rows import AliasMove
from adapters.versions import Alias
from server.http.schemas.body import Body
from server.http.schemas.response import ResponseObject, UnixTime


class MoveBody(Body):
    """Body of an alias move."""

    version: int = Field(ge=1)
    expected: int | None = Field(None, description="The version it must point to now; null: it must not exist.")
    generation: int | None = Field(None, description="The generation it must have now.")


class PromoteBody(Body):
    """Body of a promotion."""

    version: int = Field(ge=1)


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

    moves: list[AliasMoveObject] = Field(default_factory=list)

    @classmethod
    def from_moves(cls, alias: Alias, moves: Iterable[AliasMove]) -> Self:
        """Return the response that shows ``alias`` and its ``moves``."""
        return cls.model_validate(alias).model_copy(update={"moves": list(map(AliasMoveObject.model_validate, moves))})


class DeletedAlias(ResponseObject):
    """The confirmation that an alias was deleted."""

    object: Literal["adapter.alias"] = "adapter.alias"
    adapter: str
    alias: str
    deleted: Literal[True] = True
