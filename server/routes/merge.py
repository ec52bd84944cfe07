"""Merges: a new version made of others."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter

from adapters.lora.merge.recipe import Ingredient, MergeMethod, MergeRecipe
from adapters.names import check_adapter_name, check_alias, parse_reference
from server.errors import InvalidRequest
from server.http.schemas.merge import MergeBody
from server.http.schemas.versions import ReportedVersion
from server.operations.publish import check_name_is_free, publish_merge
from server.routes.dependencies import StateDep
from server.state import AppState

router = APIRouter(prefix="/v1/adapters", tags=["versions"])

DEFAULT_DENSITY: Final = 0.5
DEFAULT_SEED: Final = 0


@router.post("/{name}/merge", status_code=201)
async def merge(name: str, body: MergeBody, state: StateDep) -> ReportedVersion:
    """Publish a weighted combination of versions as the next version of an adapter. It can be called at once."""
    check_name_is_free(state, check_adapter_name(name))
    if body.alias is not None:
        check_alias(body.alias)
    published = await publish_merge(state, name, _recipe(body, state), alias=body.alias)
    return ReportedVersion.from_published(published, state.registry.catalog, state.engine)


def _recipe(body: MergeBody, state: AppState) -> MergeRecipe:
    density, seed = body.density, body.seed
    if density is not None and body.method is MergeMethod.LINEAR:
        raise InvalidRequest("method linear adds whole versions up; only ties and dare have a density", param="density")
    if seed is not None and not body.method.is_random:
        raise InvalidRequest(f"method {body.method} is not random; only dare has a seed", param="seed")
    if not any(each.weight for each in body.versions):
        raise InvalidRequest("every weight is 0, which makes the base model; give one another value", param="versions")
    if density is None and body.method is not MergeMethod.LINEAR:
        density = DEFAULT_DENSITY
    if seed is None and body.method.is_random:
        seed = DEFAULT_SEED
    resolve = state.registry.catalog.resolve
    ingredients = [Ingredient(resolve(parse_reference(each.reference)), each.weight) for each in body.versions]
    return MergeRecipe(tuple(ingredients), body.method, density, seed, body.compress_to)
