"""vLLM's two calls, so that its clients work unchanged. The adapters pass the same checks as uploads.

https://docs.vllm.ai/en/latest/features/lora.html#dynamically-serving-lora-adapters
"""

import structlog
from fastapi import APIRouter
from fastapi.responses import PlainTextResponse
from pydantic import ConfigDict

from adapters.names import DEFAULT_ALIAS, FineTunedName, parse_reference
from adapters.publish_options import PublishOptions
from adapters.sources.lora_path import parse_lora_path
from server.access.scope import Scope
from server.errors import InvalidRequest
from server.gateway.authenticate import require
from server.http.schemas.base import Body
from server.operations import retention
from server.operations.deletion import delete_model
from server.operations.publish import name_to_load, project_to_publish, publish_version
from server.routes.dependencies import CallerDep, StateDep, VisibleDep

router = APIRouter(prefix="/v1", tags=["vllm"])

log = structlog.get_logger(__name__)


class LoraBody(Body):
    """A body of vLLM's calls. As in vLLM, further keys are ignored; the log has them."""

    model_config = ConfigDict(extra="allow")

    lora_name: str


class LoadBody(LoraBody):
    """vLLM's body of a load."""

    lora_path: str
    load_inplace: bool = False


class UnloadBody(LoraBody):
    """vLLM's body of an unload."""

    lora_int_id: int | None = None


@router.post("/load_lora_adapter", response_class=PlainTextResponse)
async def load_lora_adapter(
    body: LoadBody, state: StateDep, caller: CallerDep, adapters: VisibleDep
) -> PlainTextResponse:
    """Publish the adapter at ``lora_path`` (a directory or a hub id) under ``lora_name`` and make it resident.

    ``load_inplace`` publishes a further version and moves ``stable`` to it; streams in flight finish on the old one.
    A name that no adapter may have, such as ``acme/sql``, is one more name of the adapter: requests may use it.
    """
    _log_ignored(body)
    name, lora_name = await name_to_load(state, adapters, body.lora_name)
    project = await project_to_publish(state, adapters, name)
    if name in state.registry.catalog and not body.load_inplace:
        raise InvalidRequest(
            f"The lora adapter '{body.lora_name}' has already been loaded. If you want to load the adapter in place, "
            "set 'load_inplace' to True.",
            param="lora_name",
        )
    if name in state.registry.catalog:
        require(caller, Scope.ALIASES_WRITE, "a load in place, which moves 'stable',")
    source = parse_lora_path(body.lora_path, state.settings.source_rules)
    in_place = body.load_inplace
    options = PublishOptions(alias=DEFAULT_ALIAS, lora_name=lora_name, is_in_place=in_place, project=project)
    await publish_version(state, name, source, options)
    await retention.apply(state, name)
    return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")


@router.post("/unload_lora_adapter", response_class=PlainTextResponse)
async def unload_lora_adapter(body: UnloadBody, state: StateDep, adapters: VisibleDep) -> PlainTextResponse:
    """Delete the adapter ``lora_name``: after this call its name is unknown, as with vLLM.

    A fine-tuned name deletes the version that it means and the aliases that point to that version.
    """
    _log_ignored(body)
    name = body.lora_name
    if (adapter := adapters.loaded_as(name)) is None and isinstance(parse_reference(name), FineTunedName):
        versions = [adapters.find(name)]
    else:
        versions = list((adapter or adapters.adapter(name)).versions.values())
    if body.lora_int_id is not None and body.lora_int_id not in {version.id for version in versions}:
        raise InvalidRequest(f"'{name}' has no version with the id {body.lora_int_id}", param="lora_int_id")
    await delete_model(state, adapters, name)
    return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")


def _log_ignored(body: LoraBody) -> None:
    if ignored := sorted(body.model_extra or ()):
        log.info("ignored further keys of a call", lora_name=body.lora_name, keys=ignored)
