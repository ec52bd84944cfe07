"""OpenAI's models in responses: https://platform.openai.com/docs/api-reference/models"""

from __future__ import annotations

from typing import Literal, Self

from adapters.names import DEFAULT_ALIAS
from adapters.versions import Adapter, Version
from server.http.schemas.response import ResponseObject, UnixTime


class ModelObject(ResponseObject):
    """The base model, or an adapter. ``root`` names the version that answers; ``parent`` is the base model."""

    id: str
    object: Literal["model"] = "model"
    created: UnixTime
    owned_by: Literal["patchbay"] = "patchbay"
    root: str | None
    parent: str | None

    @classmethod
    def from_adapter(cls, adapter: Adapter, parent: str | None) -> Self:
        """Return the response that shows ``adapter``."""
        stable = adapter.aliases.get(DEFAULT_ALIAS)
        root = None if stable is None else f"{adapter.name}@{stable.version}"
        return cls(id=adapter.name, created=adapter.created_at, root=root, parent=parent)


class VersionModel(ModelObject):
    """A reference that means a version, with the version's digest."""

    digest: str

    @classmethod
    def from_version(cls, reference: str, version: Version, parent: str | None) -> Self:
        """Return the response that shows ``reference``, which means ``version``."""
        digest = version.digest
        return cls(id=reference, created=version.created_at, root=version.name, parent=parent, digest=digest)


class ModelList(ResponseObject):
    """All models on one page."""

    object: Literal["list"] = "list"
    data: list[VersionModel | ModelObject]
