"""Comparisons of versions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter

from adapters.errors import WrongBase
from adapters.lora.diff import Diff
from adapters.lora.stored_lora import StoredLora
from adapters.names import parse_reference
from adapters.storage.disk import in_thread
from server.http.schemas.diff import DiffBody, DiffObject
from server.operations.compare_versions import compare_versions
from server.routes.dependencies import StateDep

router = APIRouter(prefix="/v1/adapters", tags=["versions"])


@router.post("/diff")  # GET would hide an adapter called "diff"
async def diff(body: DiffBody, state: StateDep) -> DiffObject:
    """Compare two versions: what they add to the base model's weights, and the engine's scores with each."""
    a, b = (state.registry.catalog.resolve(parse_reference(text)) for text in (body.a, body.b))
    if a.base_fingerprint != b.base_fingerprint:
        raise WrongBase(f"{a.name} and {b.name} were made for different base models, so they do not compare", param="b")
    weights = await in_thread(_compare, *[await state.blobs.path(version.digest) for version in (a, b)])
    answers = await compare_versions(state.engine, a, b)
    return DiffObject(a=a.name, b=b.name, **answers, **weights)


def _compare(a: Path, b: Path) -> dict[str, Any]:
    return Diff.of(StoredLora.open(a), StoredLora.open(b)).to_json()
