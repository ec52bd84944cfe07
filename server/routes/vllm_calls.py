"""vLLM's two calls, so that its clients work unchanged. The adapters pass the same checks as uploads.

https://docs.vllm.ai/en/latest/features/lora.html#dynamically-serving-lora-adapters
"""

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse

from adapters.names import DEFAULT_ALIAS, FineTunedName, parse_reference
from adapters.publish_options import PublishOptions
from adapters.sources.address import parse_source
from server.errors import InvalidRequest
from server.http.schemas.base import Body
from server.operations.deletion import delete_model
from server.operations.publish import check_name, publish_version
from server.routes.dependencies import StateDep

router = APIRouter(prefix="/v1", tags=["vllm"])


class LoadBody(Body):
    """vLLM's body of a load."""

    lora_name: str
    lora_path: str
    load_inplace: bool = False


class UnloadBody(Body):
    """vLLM's body of an unload."""

    lora_name: str
    lora_int_id: int | None = None


@router.post("/load_lora_adapter", response_class=PlainTextResponse)
async def load_lora_adapter(body: LoadBody, state: StateDep) -> PlainTextResponse:
    """Publish the adapter at ``lora_path`` (a directory or a hub id) under ``lora_name`` and make it resident.

    ``load_inplace`` publishes a further version and moves ``stable`` to it; streams in flight finish on the old one.
    """
    name = check_name(state, body.lora_name)
    if name in state.registry.catalog and not body.load_inplace:
        raise InvalidRequest(
            f"The lora adapter '{name}' has already been loaded. If you want to load the adapter in place, set "
            "'load_inplace' to True.",
            param="lora_name",
        )
    path = body.lora_path
    text = path if "://" in path else f"file://{path}" if path.startswith("/") else f"hf://{path}"
    source = parse_source(text, state.settings.source_rules)
    await publish_version(state, name, source, PublishOptions(alias=DEFAULT_ALIAS))
    return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully.")


@router.post("/unload_lora_adapter", response_class=PlainTextResponse)
async def unload_lora_adapter(body: UnloadBody, state: StateDep) -> PlainTextResponse:
    """Delete the adapter ``lora_name``: after this call its name is unknown, as with vLLM.

    A fine-tuned name deletes the version that it means and the aliases that point to that version.
    """
    name, catalog = body.lora_name, state.registry.catalog
    named = parse_reference(name)
    versions = [catalog.resolve(named)] if isinstance(named, FineTunedName) else catalog.adapter(name).versions.values()
    if body.lora_int_id is not None and body.lora_int_id not in {version.id for version in versions}:
        raise InvalidRequest(f"'{name}' has no version with the id {body.lora_int_id}", param="lora_int_id")
    await delete_model(state, name)
    return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")
