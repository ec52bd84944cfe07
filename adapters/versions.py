"""A version, an alias and an adapter as immutable values, which tasks can share."""

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from datetime import datetime

from adapters.gate import Requirement
from adapters.names import DEFAULT_PROJECT
from adapters.rollout import Rollout


@dataclass(frozen=True, slots=True)
class Version:
    """Published weights, which never change. ``id`` is unique over all adapters and never reused after a deletion."""

    id: int
    adapter: str
    number: int
    digest: str
    """sha256 of the manifest, 64 hex digits; the blob's name."""
    base_fingerprint: str
    """Fingerprint of the base model whose shapes the adapter was checked against."""
    rank: int
    size_bytes: int
    source: str
    """Where it came from: ``upload``, ``hf://org/repo@sha``, ``file:///dir``, ``job:ftjob-…``."""
    created_at: datetime
    is_pinned: bool = False
    is_in_place: bool = False
    """Published by a load in place: a later one may delete it, see ``server.operations.retention``."""
    original_digest: str | None = None
    """Digest of the files as they were uploaded, if they were compiled to be served."""
    quarantine: str | None = None
    """Why requests for it are refused, such as ``nan``; None: they are not."""

    @property
    def name(self) -> str:
        """The version's name in the engine and in responses: ``sql@7``."""
        return f"{self.adapter}@{self.number}"

    @property
    def key(self) -> tuple[int, str]:
        """Identifies the bytes for good: a database that was restored from a backup gives ids and names once more."""
        return self.id, self.digest


@dataclass(frozen=True, slots=True)
class Alias:
    """A movable name for a version. ``generation`` grows by one with each move, for compare-and-set."""

    adapter: str
    name: str
    version: int
    generation: int
    updated_at: datetime
    require: Requirement | None = None
    """The verdict that a version needs before the alias may point to it; None: none."""
    rollout: Rollout | None = None
    """The active rollout."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """A named adapter with its living versions, their fine-tuned names and its aliases."""

    name: str
    created_at: datetime
    versions: Mapping[int, Version] = field(default_factory=dict)
    aliases: Mapping[str, Alias] = field(default_factory=dict)
    fine_tuned: Mapping[str, int] = field(default_factory=dict)
    """Fine-tuned name -> version number."""
    lora_name: str | None = None
    """The name that vLLM's load call gave it, where that is no adapter name."""
    project: str = DEFAULT_PROJECT
    """The project that it belongs to, for ever: a deleted adapter's name stays with its project."""
    shared_with: Set[str] = frozenset()
    """Other projects that may use and read it."""
