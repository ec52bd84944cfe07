"""``python -m adapters.inspection``: inspects uploads and makes them canonical. See ``adapters.inspector``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adapters.base_model import BaseModel
from adapters.canonicalizer import canonicalize
from adapters.door import Limits
from adapters.forking import Work, serve


def prepared(setup: dict[str, Any]) -> Work:
    """Return what inspects adapters for the base model in ``setup``."""
    modules = {module: (rows, columns) for module, (rows, columns) in setup.pop("modules").items()}
    base = BaseModel(modules=modules, **setup)

    def work(question: dict[str, Any]) -> dict[str, Any]:
        limits = Limits(**question["limits"])
        canonical = canonicalize(Path(question["directory"]), Path(question["out"]), base, limits)
        made = None if canonical.made is None else canonical.made.to_json()
        return {"report": canonical.report.to_json(), "made": made}

    return work


if __name__ == "__main__":
    serve(prepared)
