"""The nouns of the registry as values: a version, an alias, an adapter. Immutable, safe to share between tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Version:
    """Immutable published weights. ``id`` is unique over all adapters and never reused, not even after deletion."""

    id: int
    adapter: str
    number: int
    digest: str
    """sha256 of the manifest, 64 hex digits; the blob lies under it."""
    base_fingerprint: str
    """Fingerprint of the base model whose shapes the door checked against."""
    rank: int
    size_bytes: int
    source: str
    """Where it came from: ``upload``, ``hf://org/repo@sha``, ``file:///dir``, ``job:ftjob-…``."""
    created_at: datetime
    is_pinned: bool = False
    original_digest: str | None = None
    """Of the files as they came, where they had to be compiled to be served."""

    @property
    def name(self) -> str:
        """The name the engine and the response know it by: ``sql@7``."""
        return f"{self.adapter}@{self.number}"


@dataclass(frozen=True, slots=True)
class Alias:
    """A movable name for a version. ``generation`` grows by one with each move: compare-and-set rests on it."""

    adapter: str
    name: str
    version: int
    generation: int
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Adapter:
    """A named, long-lived thing people call, with its living versions, their fine-tuned names and its aliases."""

    name: str
    created_at: datetime
    versions: Mapping[int, Version] = field(default_factory=dict)
    aliases: Mapping[str, Alias] = field(default_factory=dict)
    fine_tuned: Mapping[str, int] = field(default_factory=dict)
    """Fine-tuned name -> number of the version that it means."""
