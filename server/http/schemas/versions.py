"""Versions in requests and responses."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field

from adapters.publisher import Published
from adapters.registry.catalog import Catalog
from adapters.versions import Version
from server.current_engine import CurrentEngine
from server.http.schemas.body import Body, Json
from server.http.schemas.response import ResponseObject, UnixTime


class PublishFields(Body):
    """The options of a publication that users state, see ``PublishOptions``."""

    alias: str | None = Field(None, description="Alias to point to the new version at once.")
    allow_inert: bool = Field(False, description="Publish also if the adapter answers exactly as the base model does.")
    compress_to: int | None = Field(
        None, ge=1, description="Truncate to this rank, whatever is lost; the report says how much."
    )
    force_base: bool = Field(
        False, description="Publish also if the adapter's config names another base model; its shapes must fit."
    )

    def options(self) -> Json:
        """Return the stated options by name."""
        return self.model_dump(exclude={"source"}, exclude_defaults=True)


class SourceBody(PublishFields):
    """Body of a publication from a source."""

    source: str = Field(examples=["hf://org/repo@main", "file:///srv/adapters/sql"])


class VersionObject(ResponseObject):
    """A version, with the names that mean it now and its residency."""

    object: Literal["adapter.version"] = "adapter.version"
    id: str
    adapter: str
    version: int
    digest: str
    original_digest: str
    rank: int
    size_bytes: int
    source: str
    created_at: UnixTime
    aliases: list[str]
    fine_tuned_names: list[str]
    is_pinned: bool
    residency: str | None

    @classmethod
    def from_version(cls, version: Version, catalog: Catalog, engine: CurrentEngine, **fields: Any) -> Self:
        """Return the response that shows ``version``; ``fields`` are those that a subclass adds."""
        adapter = catalog.adapter(version.adapter)
        return cls(
            id=version.name,
            adapter=version.adapter,
            version=version.number,
            digest=version.digest,
            original_digest=version.original_digest or version.digest,
            rank=version.rank,
            size_bytes=version.size_bytes,
            source=version.source,
            created_at=version.created_at,
            aliases=[alias.name for alias in adapter.aliases.values() if alias.version == version.number],
            fine_tuned_names=[name for name, number in adapter.fine_tuned.items() if number == version.number],
            is_pinned=version.is_pinned,
            residency=engine.residency_of(version),
            **fields,
        )


class ReportedVersion(VersionObject):
    """A version with the report of its inspection; null where a publication found the same bytes published before."""

    report: dict[str, Any] | None

    @classmethod
    def from_published(cls, published: Published, catalog: Catalog, engine: CurrentEngine) -> Self:
        """Return the response that shows a version that was just published."""
        return cls.from_version(published.version, catalog, engine, report=published.report)


class VersionFile(ResponseObject):
    """One file of a version; ``path`` is where to download it."""

    name: str
    size_bytes: int
    path: str


class VersionFileList(ResponseObject):
    """All files of a version, and the digest of their manifest."""

    object: Literal["list"] = "list"
    digest: str
    data: list[VersionFile]
