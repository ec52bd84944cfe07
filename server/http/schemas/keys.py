"""API keys in requests and responses."""

from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from adapters.names import DEFAULT_PROJECT
from server.access.key_ring import MAX_GRACE_S, MAX_NAME_LENGTH
from server.access.scope import Scope
from server.http.schemas.base import Body, ResponseObject, UnixTime

_Pattern = Annotated[str, Field(min_length=1, max_length=128)]


class KeyBody(Body):
    """Body of a new key."""

    name: str = Field(max_length=MAX_NAME_LENGTH, description="Person or program that will use the key.")
    scopes: list[Scope] = Field([Scope.INFER], min_length=1)
    adapters: list[_Pattern] | None = Field(
        None, min_length=1, max_length=64, description="Names of adapters that it may use, * for any text."
    )
    project: str = Field(DEFAULT_PROJECT, description="Whose adapters, files, jobs, batches and responses it sees.")
    expires_at: AwareDatetime | None = Field(None, description="Unix seconds, or ISO 8601 with a time zone.")


class RotateBody(Body):
    """Body of a rotation."""

    grace_s: float = Field(0, ge=0, le=MAX_GRACE_S, description="Seconds for which the old key stays valid.")


class KeyObject(ResponseObject):
    """A key without its secret."""

    object: Literal["api_key"] = "api_key"
    id: str
    name: str
    scopes: list[Scope]
    project: str
    adapters: list[str] | None
    last4: str
    created_at: UnixTime
    expires_at: UnixTime | None
    last_used_at: UnixTime | None
    revoked_at: UnixTime | None


class CreatedKey(KeyObject):
    """A new key with its secret, which is in no other response."""

    value: str
