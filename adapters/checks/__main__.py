"""Inspects uploads and makes them canonical: the child process of ``adapters.checks.inspector``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adapters.base_model import BaseModel
from adapters.checks.canonicalizer import canonicalize
from adapters.checks.inspection import AdapterLimits
from adapters.processes.answers import Work
from adapters.processes.fork_pool import serve_forks


def prepare(setup: dict[str, Any]) -> Work:
    """Return the function that inspects adapters for the base model in ``setup``."""
    modules = {module: (rows, columns) for module, (rows, columns) in setup.pop("modules").items()}
    base = BaseModel(modules=modules, **setup)

    def work(question: dict[str, Any]) -> dict[str, Any]:
        limits = AdapterLimits(**question["limits"])
        canonical = canonicalize(Path(question["directory"]), Path(question["out"]), base, limits)
        made = None if canonical.made is None else canonical.made.to_json()
        return {"report": canonical.report.to_json(), "made": made}

    return work


if __name__ == "__main__":
    serve_forks(prepare)
