"""Versions in requests and responses: published, merged, compared."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final, Literal, Self

from pydantic import Field

from adapters.lora.merge.recipe import MergeMethod
from adapters.registry.catalog import Catalog
from adapters.versions import Version
from server.current_engine import CurrentEngine
from server.http.schemas.body import Body, Json
from server.http.schemas.response import ResponseObject, UnixTime
from server.probe.verdict import Distance

MAX_INGREDIENTS: Final = 32
MAX_WEIGHT: Final = 1000.0


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
        ge=-MAX_WEIGHT, le=MAX_WEIGHT, allow_inf_nan=False, description="Below 0: subtract its effect."
    )


class MergeBody(Body):
    """Body of a merge."""

    versions: list[IngredientBody] = Field(min_length=1, max_length=MAX_INGREDIENTS)
    method: MergeMethod = MergeMethod.LINEAR
    density: float | None = Field(None, gt=0, le=1, description="For ties and dare: the share of numbers kept.")
    seed: int | None = Field(None, ge=0, lt=2**63, description="For dare: seed of the random choice of numbers kept.")
    compress_to: int | None = Field(None, ge=1, description="The rank to cut at, where the sum has more.")
    alias: str | None = Field(None, description="Alias to point to the new version at once.")


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
        facts = asdict(version) | {
            "id": version.name,
            "version": version.number,
            "original_digest": version.original_digest or version.digest,
        }
        return cls(
            **facts,
            aliases=[alias.name for alias in adapter.aliases.values() if alias.version == version.number],
            fine_tuned_names=[name for name, number in adapter.fine_tuned.items() if number == version.number],
            residency=engine.residency_of(version),
            **fields,
        )


class ReportedVersion(VersionObject):
    """A version with the report of its inspection; null where a publication found the same bytes published before."""

    report: dict[str, Any] | None


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


class DiffBody(Body):
    """Body of a comparison."""

    a: str = Field(examples=["sql@1"])
    b: str = Field(examples=["sql@2"])


class WeightDiff(ResponseObject):
    """How the changes of the same weights by a and b compare: see ``adapters.lora.diff.Comparison``."""

    norm_a: float
    norm_b: float
    distance: float
    relative_distance: float
    cosine: float | None
    output_overlap: float | None
    input_overlap: float | None


class LayerDiff(WeightDiff):
    """A layer's modules compared as one."""

    layer: str


class ModuleDiff(WeightDiff):
    """A module compared."""

    module: str


class AnswersDiff(ResponseObject):
    """How the engine's scores of the probe's prompts under a, b and the base model compare."""

    prompts: int
    tokens: int
    distance: Distance
    effect_a: Distance
    effect_b: Distance


class DiffObject(ResponseObject):
    """Two versions compared. ``answers`` is null where the engine cannot score both; ``notes`` names the reason."""

    object: Literal["adapter.diff"] = "adapter.diff"
    a: str
    b: str
    answers: AnswersDiff | None
    notes: list[str]
    total: WeightDiff
    layers: list[LayerDiff]
    modules: list[ModuleDiff]
