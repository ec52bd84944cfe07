"""OpenAI's model routes: the base, the adapters and what jobs made. https://platform.openai.com/docs/api-reference/models"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator

from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from adapters.names import DEFAULT_ALIAS, FineTunedName
from adapters.versions import Adapter, Version
from server.gateway.resolve import resolve
from server.http.schemas.adapters import Json
from server.operations.deletion import delete_model
from server.routes.inputs import StateOf
from server.state import AppState

router = APIRouter(prefix="/v1/models", tags=["models"])

_BATCH = 200
"""Models rendered between two turns of the event loop: thousands must not hold up a token."""


@router.get("")
async def list_models(state: StateOf) -> StreamingResponse:
    """List the base model, every adapter and every fine-tuned model; a job's checkpoints are listed with the job.

    OpenAI's client knows no pages here, so all come in one, streamed.
    """
    return StreamingResponse(_list(state), media_type="application/json")


async def _list(state: AppState) -> AsyncIterator[str]:
    models = [_base_json(name, state) for name in state.engine.served_names]
    yield '{"object": "list", "data": [' + ", ".join(map(json.dumps, models))
    after: str | None = None
    separator = ", " if models else ""
    while True:
        adapters, has_more = state.registry.catalog.adapters(after=after, limit=_BATCH)
        if adapters:
            models = [model for adapter in adapters for model in _models_of(adapter, state)]
            yield separator + ", ".join(map(json.dumps, models))
            after, separator = adapters[-1].name, ", "
        if not has_more:
            break
        await asyncio.sleep(0)
    yield "]}"


@router.get("/{model:path}")
async def show(model: str, state: StateOf) -> Json:
    """Show what a reference means now; ``root`` names the version that would answer."""
    if model in state.engine.served_names:
        return _base_json(model, state)
    version = resolve(model, state.registry.catalog, state.engine.info)
    return _version_json(model, version, state)


@router.delete("/{model:path}")
async def delete(model: str, state: StateOf) -> Json:
    """Delete an adapter, or the version that a fine-tuned name means with the aliases that point to it."""
    await delete_model(state, model)
    return {"id": model, "object": "model", "deleted": True}


def _base_json(name: str, state: AppState) -> Json:
    return {
        "id": name,
        "object": "model",
        "created": state.started_at,
        "owned_by": "patchbay",
        "root": name,
        "parent": None,
    }


def _models_of(adapter: Adapter, state: AppState) -> Iterator[Json]:
    yield _adapter_json(adapter, state)
    for name, number in adapter.fine_tuned.items():
        if not FineTunedName(name).is_checkpoint:
            yield _version_json(name, adapter.versions[number], state)


def _version_json(model: str, version: Version, state: AppState) -> Json:
    return {
        "id": model,
        "object": "model",
        "created": int(version.created_at.timestamp()),
        "owned_by": "patchbay",
        "root": version.name,
        "parent": next(iter(state.engine.served_names), None),
        "digest": version.digest,
    }


def _adapter_json(adapter: Adapter, state: AppState) -> Json:
    stable = adapter.aliases.get(DEFAULT_ALIAS)
    return {
        "id": adapter.name,
        "object": "model",
        "created": int(adapter.created_at.timestamp()),
        "owned_by": "patchbay",
        "root": None if stable is None else f"{adapter.name}@{stable.version}",
        "parent": next(iter(state.engine.served_names), None),
    }
