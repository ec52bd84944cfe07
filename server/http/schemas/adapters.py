"""Adapters, their versions and aliases in requests and responses."""

from typing import Any, ClassVar, Literal, Self

from pydantic import Field

from adapters.gate import Requirement
from adapters.lora.merge.recipe import MergeMethod
from adapters.names import DEFAULT_ALIAS
from adapters.versions import Adapter
from server.http.schemas.base import Body, Json, ResponseObject, UnixTime
from server.probe.verdict import Distance


class AdapterObject(ResponseObject):
    """An adapter with its aliases and the number of its newest version."""

    cursor_field: ClassVar[str] = "name"

    object: Literal["adapter"] = "adapter"
    name: str
    lora_name: str | None
    created_at: UnixTime
    latest_version: int | None
    version_count: int
    aliases: dict[str, int]
    project: str
    shared_with: list[str]

    @classmethod
    def from_adapter(cls, adapter: Adapter, seen_project: str | None) -> Self:
        """Return ``adapter`` as a caller sees it who sees ``seen_project``; None: one who sees all.

        A project with which it is shared learns of no other share.
        """
        sees_all = seen_project in (None, adapter.project)
        return cls(
            name=adapter.name,
            lora_name=adapter.lora_name,
            created_at=adapter.created_at,
            latest_version=max(adapter.versions, default=None),
            version_count=len(adapter.versions),
            aliases={name: alias.version for name, alias in adapter.aliases.items()},
            project=adapter.project,
            shared_with=sorted(adapter.shared_with) if sees_all else [seen_project],
        )


class DeletedAdapter(ResponseObject):
    """The confirmation that an adapter was deleted."""

    object: Literal["adapter"] = "adapter"
    name: str
    deleted: Literal[True] = True


class PromoteBody(Body):
    """Body of a promotion."""

    version: int = Field(ge=1)
    force: bool = Field(False, description="Also without the verdict that the alias demands; recorded.")


class MoveBody(PromoteBody):
    """Body of an alias move."""

    expected: int | None = Field(None, description="The version it must point to now; null: it must not exist.")
    generation: int | None = Field(None, description="The generation it must have now.")
    require: Requirement | None = Field(
        None, description="The verdict that it demands from this move on; null: none. Left out: as before."
    )


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
    require: Requirement | None


class AliasMoveObject(ResponseObject):
    """One move of an alias; ``from`` is null for its creation, ``to`` for its deletion."""

    object: Literal["adapter.alias.move"] = "adapter.alias.move"
    from_version: int | None = Field(serialization_alias="from")
    to_version: int | None = Field(serialization_alias="to")
    generation: int
    at: UnixTime
    is_rollback: bool
    is_forced: bool


class AliasHistory(AliasObject):
    """An alias with its moves, oldest first."""

    moves: list[AliasMoveObject]


class DeletedAlias(ResponseObject):
    """The confirmation that an alias was deleted."""

    object: Literal["adapter.alias"] = "adapter.alias"
    adapter: str
    alias: str
    deleted: Literal[True] = True


class PublishFields(Body):
    """The options of a publication that users state, see ``PublishOptions``."""

    alias: str | None = Field(None, description="Alias to point to the new version at once.")
    allow_inert: bool = Field(False, description="Publish also if the adapter answers exactly as the base model does.")
    compress_to: int | None = Field(None, ge=1, description="Truncate to this rank; the report says how much is lost.")
    force_base: bool = Field(False, description="Publish also if the config names another base; the shapes must fit.")

    def options(self) -> Json:
        return self.model_dump(exclude={"source"}, exclude_defaults=True)


class SourceBody(PublishFields):
    """Body of a publication from a source."""

    source: str = Field(examples=["hf://org/repo@main", "file:///srv/adapters/sql"])


class IngredientBody(Body):
    """A version to merge."""

    reference: str = Field(examples=["sql@1", "json"])
    weight: float = Field(ge=-1000, le=1000, allow_inf_nan=False, description="Below 0: subtract its effect.")


class MergeBody(Body):
    """Body of a merge."""

    versions: list[IngredientBody] = Field(min_length=1, max_length=32)
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
    quarantine: str | None
    renderer_matches: bool | None = Field(
        None, description="Whether it was trained on prompts as this server makes them; null: not trained here."
    )


class ReportedVersion(VersionObject):
    """A version with the report of its inspection; null where a publication found the same bytes published before."""

    report: dict[str, Any] | None


class VersionFile(ResponseObject):
    """One file of a version, or of a whole model; ``path`` is where to download it."""

    cursor_field: ClassVar[str] = "name"

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
