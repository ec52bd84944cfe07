"""OpenAI's model routes: the base, the adapters and fine-tuned models. https://platform.openai.com/docs/api-reference/models"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from adapters.names import DEFAULT_ALIAS, FineTunedName
from adapters.versions import Adapter, Version
from server.access.visible_adapters import VisibleAdapters
from server.gateway.resolve import resolve
from server.http.schemas.base import DeletedObject
from server.http.schemas.process import ModelList, ModelObject, VersionModel
from server.operations.deletion import delete_model
from server.routes.dependencies import CallerDep, StateDep, VisibleDep
from server.state import AppState

router = APIRouter(prefix="/v1/models", tags=["models"])

_BATCH = 200
"""Models rendered between two turns of the event loop: thousands must not delay a token."""


@router.get("", response_model=ModelList)
async def list_models(state: StateDep, adapters: VisibleDep) -> StreamingResponse:
    """List the base model, every adapter and every fine-tuned model; a job's checkpoints are listed with the job.

    OpenAI's client reads a single page here, so that page has all models; it is streamed.
    """
    return StreamingResponse(_list(state, adapters), media_type="application/json")


async def _list(state: AppState, adapters: VisibleAdapters) -> AsyncIterator[str]:
    """Yield a ``ModelList`` as JSON, in pieces."""
    models = [_base_model(name, state) for name in state.engine.served_names]
    yield '{"object":"list","data":[' + ",".join(model.model_dump_json() for model in models)
    base = _base(state)
    after: str | None = None
    separator, has_more = "," if models else "", True
    while has_more:
        page, has_more = adapters.page(after, _BATCH)
        if page:
            after = page[-1].name
            models = [model for adapter in page for model in base.models_of(adapter)]
            yield separator + ",".join(model.model_dump_json() for model in models)
            separator = ","
        await asyncio.sleep(0)
    yield "]}"


@router.get("/{model:path}")
async def show(model: str, state: StateDep, caller: CallerDep) -> VersionModel | ModelObject:
    """Show what a reference means now; ``root`` names the version that would answer."""
    if model in state.engine.served_names:
        return _base_model(model, state)
    info = state.engine.info
    version = await state.registry.look_up(lambda catalog: resolve(model, catalog, info, caller))
    return _base(state).version(model, version)


@router.delete("/{model:path}")
async def delete(model: str, state: StateDep, adapters: VisibleDep) -> DeletedObject:
    """Delete an adapter, or the version that a fine-tuned name means with the aliases that point to it."""
    await delete_model(state, adapters, model)
    return DeletedObject(object="model", id=model)


@dataclass(frozen=True, slots=True)
class _Base:
    """What every model of a server has from the base model."""

    name: str | None
    context: int | None

    def version(self, name: str, version: Version) -> VersionModel:
        return VersionModel(
            id=name,
            created=version.created_at,
            root=version.name,
            parent=self.name,
            max_model_len=self.context,
            digest=version.digest,
        )

    def models_of(self, adapter: Adapter) -> Iterator[ModelObject]:
        """Yield the models that list ``adapter``: itself, and the results of the jobs that made its versions."""
        stable = adapter.aliases.get(DEFAULT_ALIAS)
        root = None if stable is None else f"{adapter.name}@{stable.version}"
        yield ModelObject(
            id=adapter.lora_name or adapter.name,
            created=adapter.created_at,
            root=root,
            parent=self.name,
            max_model_len=self.context,
        )
        for name, number in adapter.fine_tuned.items():
            if not FineTunedName(name).is_checkpoint:
                yield self.version(name, adapter.versions[number])


def _base(state: AppState) -> _Base:
    return _Base(next(iter(state.engine.served_names), None), state.engine.context)


def _base_model(name: str, state: AppState) -> ModelObject:
    created = datetime.fromtimestamp(state.started_at, UTC)
    return ModelObject(id=name, created=created, root=name, parent=None, max_model_len=state.engine.context)
