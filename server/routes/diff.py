"""Comparisons of versions."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter

from adapters.diff import Diff
from adapters.door.stored_lora import StoredLora
from adapters.errors import WrongBase
from adapters.names import parse_reference
from adapters.storage.disk import in_thread
from server.answers import compared_answers
from server.routes.inputs import HouseOf
from server.routes.shapes import DiffBody, Json

router = APIRouter(prefix="/v1/adapters", tags=["versions"])


@router.post("/diff")  # GET would take this name from an adapter that is called so
async def diff(body: DiffBody, house: HouseOf) -> Json:
    """Compare what two versions add to the base model's weights, and what the engine answers with each of them."""
    a, b = (house.registry.catalog.resolve(parse_reference(text)) for text in (body.a, body.b))
    if a.base_fingerprint != b.base_fingerprint:
        raise WrongBase(f"{a.name} and {b.name} were made for different base models, so they do not compare", param="b")
    compared = await in_thread(_compare, *[await house.blobs.path(version.digest) for version in (a, b)])
    answers = await compared_answers(house.supervisor, a, b)
    return {"object": "adapter.diff", "a": a.name, "b": b.name, **answers, **compared}


def _compare(a: Path, b: Path) -> Json:
    return Diff.of(StoredLora.open(a), StoredLora.open(b)).to_json()
