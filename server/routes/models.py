"""OpenAI's model routes: the base, the adapters and what jobs made. https://platform.openai.com/docs/api-reference/models"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator

from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from adapters.names import DEFAULT_ALIAS, FineTunedName, check_adapter_name, parse_reference
from adapters.versions import Adapter, Version
from server.gateway.resolve import resolve
from server.house import House
from server.routes.inputs import HouseOf
from server.routes.shapes import Json

router = APIRouter(prefix="/v1/models", tags=["models"])

_BATCH = 200
"""Models rendered between two turns of the event loop: thousands must not hold up a token."""


@router.get("")
async def list_models(house: HouseOf) -> StreamingResponse:
    """List the base model, every adapter and every fine-tuned model; a job's checkpoints are listed with the job.

    OpenAI's client knows no pages here, so all come in one, streamed.
    """
    return StreamingResponse(_list(house), media_type="application/json")


async def _list(house: House) -> AsyncIterator[str]:
    models = [_base_json(name, house) for name in house.served_names]
    yield '{"object": "list", "data": [' + ", ".join(map(json.dumps, models))
    after: str | None = None
    separator = ", " if models else ""
    while True:
        adapters, has_more = house.registry.catalog.adapters(after=after, limit=_BATCH)
        if adapters:
            models = [model for adapter in adapters for model in _models_of(adapter, house)]
            yield separator + ", ".join(map(json.dumps, models))
            after, separator = adapters[-1].name, ", "
        if not has_more:
            break
        await asyncio.sleep(0)
    yield "]}"


@router.get("/{model:path}")
async def show(model: str, house: HouseOf) -> Json:
    """Show what a reference means now; ``root`` names the version that would answer."""
    if model in house.served_names:
        return _base_json(model, house)
    version = resolve(model, house.registry.catalog, house.supervisor.offered())
    return _version_json(model, version, house)


@router.delete("/{model:path}")
async def delete(model: str, house: HouseOf) -> Json:
    """Delete an adapter, or the version that a fine-tuned name means with the aliases that point to it."""
    named = parse_reference(model)
    if isinstance(named, FineTunedName):
        version = house.registry.catalog.resolve(named)
        await house.delete_version(version, with_aliases=True)
    else:
        await house.delete_adapter(check_adapter_name(model))  # `sql@7` names a version, which is deleted elsewhere
    return {"id": model, "object": "model", "deleted": True}


def _base_json(name: str, house: House) -> Json:
    return {
        "id": name,
        "object": "model",
        "created": house.started_at,
        "owned_by": "patchbay",
        "root": name,
        "parent": None,
    }


def _models_of(adapter: Adapter, house: House) -> Iterator[Json]:
    yield _adapter_json(adapter, house)
    for name, number in adapter.fine_tuned.items():
        if not FineTunedName(name).is_checkpoint:
            yield _version_json(name, adapter.versions[number], house)


def _version_json(model: str, version: Version, house: House) -> Json:
    return {
        "id": model,
        "object": "model",
        "created": int(version.created_at.timestamp()),
        "owned_by": "patchbay",
        "root": version.name,
        "parent": next(iter(house.served_names), None),
        "digest": version.digest,
    }


def _adapter_json(adapter: Adapter, house: House) -> Json:
    stable = adapter.aliases.get(DEFAULT_ALIAS)
    return {
        "id": adapter.name,
        "object": "model",
        "created": int(adapter.created_at.timestamp()),
        "owned_by": "patchbay",
        "root": None if stable is None else f"{adapter.name}@{stable.version}",
        "parent": next(iter(house.served_names), None),
    }
