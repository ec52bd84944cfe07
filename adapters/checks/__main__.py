"""Inspects uploads and makes them canonical: the child process of ``adapters.checks.inspector``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from adapters.base_model import BaseModel
from adapters.checks.canonicalizer import Canonical, canonicalize
from adapters.checks.inspection import AdapterLimits
from adapters.processes.answers import Work
from adapters.processes.fork_pool import serve_forks


def prepare(setup: dict[str, Any]) -> Work:
    """Return the function that inspects adapters for the base model in ``setup``."""
    base = TypeAdapter(BaseModel).validate_python(setup)

    def work(question: dict[str, Any]) -> Any:
        limits = AdapterLimits(**question["limits"])
        canonical = canonicalize(Path(question["directory"]), Path(question["out"]), base, limits)
        return TypeAdapter(Canonical).dump_python(canonical, mode="json")

    return work


if __name__ == "__main__":
    serve_forks(prepare)
