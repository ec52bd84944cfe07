"""The permissions of API keys and bearer tokens."""

from enum import StrEnum
from typing import Final


class Scope(StrEnum):
    """A permission of an API key. ``server.gateway.route_scopes`` names the scope that each route needs."""

    INFER = "infer"
    """Inference, stored responses and the list of models."""
    ADAPTERS_READ = "adapters:read"
    """List, download and compare adapters and their versions."""
    ADAPTERS_WRITE = "adapters:write"
    """Publish, merge, load, pin and delete versions."""
    ALIASES_WRITE = "aliases:write"
    """Move and delete aliases."""
    TRAINING = "training"
    """Fine-tuning jobs and their checkpoints."""
    FILES = "files"
    """Files, uploads and batches."""
    EVALS = "evals"
    """Graders."""
    METRICS = "metrics"
    """Figures of the server: metrics, status, residents."""
    ADMIN = "admin"
    """All routes."""


ALL_SCOPES: Final = frozenset(Scope)
