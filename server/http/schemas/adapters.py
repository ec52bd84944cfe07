"""The JSON of adapters, versions and aliases. Times are Unix seconds and lists are paged as OpenAI does both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

from pydantic import Field

from adapters.lora.merge.recipe import MergeMethod
from adapters.publisher import Published
from adapters.registry.registry import Registry
from adapters.registry.rows import AliasMove
from adapters.versions import Adapter, Alias, Version
from server.current_engine import CurrentEngine
from server.http.schemas.body import Body

Json = dict[str, Any]

MAX_INGREDIENTS: Final = 32
MAX_WEIGHT: Final = 1000.0


class VersionSource(Protocol):
    """The parts of the server that a version's JSON is read from."""

    @property
    def registry(self) -> Registry:
        """The registry that knows the version's adapter."""

    @property
    def engine(self) -> CurrentEngine:
        """The engine that runs now."""


def alias_json(alias: Alias) -> Json:
    """Return an alias; ``generation`` is what a compare-and-set may ask for."""
    return {
        "object": "adapter.alias",
        "adapter": alias.adapter,
        "alias": alias.name,
        "version": alias.version,
        "generation": alias.generation,
        "updated_at": int(alias.updated_at.timestamp()),
    }


def move_json(move: AliasMove) -> Json:
    """Return one move of an alias."""
    return {
        "object": "adapter.alias.move",
        "from": move.from_version,
        "to": move.to_version,
        "generation": move.generation,
        "at": int(move.at.timestamp()),
    }


def adapter_json(adapter: Adapter) -> Json:
    """Return an adapter with its aliases and the number of its newest version."""
    return {
        "object": "adapter",
        "name": adapter.name,
        "created_at": int(adapter.created_at.timestamp()),
        "latest_version": max(adapter.versions, default=None),
        "version_count": len(adapter.versions),
        "aliases": {name: alias.version for name, alias in adapter.aliases.items()},
    }


def version_json(version: Version, state: VersionSource) -> Json:
    """Return a version, with the names it has and where it stands with the engine."""
    adapter = state.registry.catalog.adapter(version.adapter)
    return {
        "object": "adapter.version",
        "id": version.name,
        "adapter": version.adapter,
        "version": version.number,
        "digest": version.digest,
        "original_digest": version.original_digest or version.digest,
        "rank": version.rank,
        "size_bytes": version.size_bytes,
        "source": version.source,
        "created_at": int(version.created_at.timestamp()),
        "aliases": [alias.name for alias in adapter.aliases.values() if alias.version == version.number],
        "fine_tuned_names": [name for name, number in adapter.fine_tuned.items() if number == version.number],
        "is_pinned": version.is_pinned,
        "residency": state.engine.residency_of(version),
    }


def published_json(published: Published, state: VersionSource) -> Json:
    """Return a version that was just published, with the report of its inspection."""
    return {**version_json(published.version, state), "report": published.report}


def list_json(data: Sequence[Json], *, has_more: bool) -> Json:
    """Return a page in OpenAI's shape; ``last_id`` is what to send as ``after``."""
    ids = [entry.get("id") or entry.get("name") or entry.get("alias") for entry in data]
    first, last = (ids[0], ids[-1]) if ids else (None, None)
    return {"object": "list", "data": list(data), "first_id": first, "last_id": last, "has_more": has_more}


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


class IngredientBody(Body):
    """A version to merge."""

    reference: str = Field(examples=["sql@1", "json"])
    weight: float = Field(
        ge=-MAX_WEIGHT, le=MAX_WEIGHT, allow_inf_nan=False, description="Below 0: take its effect away."
    )


class MergeBody(Body):
    """Body of a merge."""

    versions: list[IngredientBody] = Field(min_length=1, max_length=MAX_INGREDIENTS)
    method: MergeMethod = MergeMethod.LINEAR
    density: float | None = Field(None, gt=0, le=1, description="For ties and dare: the share of numbers kept.")
    seed: int | None = Field(None, ge=0, lt=2**63, description="For dare: which numbers are kept.")
    compress_to: int | None = Field(None, ge=1, description="The rank to cut at, where the sum has more.")
    alias: str | None = Field(None, description="Alias to point to the new version at once.")


class DiffBody(Body):
    """Body of a comparison."""

    a: str = Field(examples=["sql@1"])
    b: str = Field(examples=["sql@2"])


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

    alias: str = "stable"
