"""Where a server may read on behalf of its callers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class SourceRules:
    """What the server may read on behalf of its callers."""

    directories: tuple[Path, ...] = ()
    buckets: tuple[str, ...] = ()
    """URL prefixes such as ``s3://bucket/adapters``."""
    hub_endpoint: str | None = None
    """None: huggingface.co."""
    hub_token: str | None = None
