"""Versions: published, listed, downloaded, loaded, pinned, deleted, merged, compared."""

import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

from fastapi import APIRouter, Depends, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from adapters.errors import WrongBase
from adapters.lora.diff import compare
from adapters.lora.merge.recipe import Ingredient, MergeMethod, MergeRecipe
from adapters.names import check_alias
from adapters.publish_options import PublishOptions
from adapters.sources.address import parse_source
from adapters.sources.source import Source
from adapters.sources.upload import UploadSource
from adapters.storage.manifest import names_in
from adapters.versions import Version
from server.access.scope import Scope
from server.access.visible_adapters import VisibleAdapters
from server.errors import InvalidRequest
from server.gateway.authenticate import require
from server.http.download import Download
from server.http.multipart import MultipartStream
from server.http.schemas.adapters import (
    DiffBody,
    DiffObject,
    MergeBody,
    PublishFields,
    ReportedVersion,
    SourceBody,
    VersionFile,
    VersionFileList,
    VersionObject,
)
from server.http.schemas.base import DeletedObject, ListObject
from server.operations import residents, retention
from server.operations.compare_versions import compare_versions
from server.operations.deletion import delete_version
from server.operations.publish import check_name, project_to_publish, publish_merge, publish_version
from server.routes.dependencies import (
    DEFAULT_PAGE,
    CallerDep,
    PageLimit,
    SentBytesDep,
    StateDep,
    VisibleDep,
    check_adapter,
)
from server.state import AppState

router = APIRouter(prefix="/v1/adapters", tags=["versions"])

Form = Literal["served", "original"]

_VERSION: Final = "/{name}/versions/{version}"
_NEEDED: Final = "the files adapter_config.json and adapter_model.safetensors, or JSON with a 'source'"
_NUMBER: Final = re.compile(r"[0-9]{1,10}")
DEFAULT_DENSITY: Final = 0.5
DEFAULT_SEED: Final = 0
_OWNERS_REPORT: Final = frozenset({"training", "merge"})
"""Parts of a report that name files, versions and settings of the owner."""
_Shown = TypeVar("_Shown", bound=VersionObject)


async def _version(
    name: str, version: str, state: StateDep, checked: Annotated[None, Depends(check_adapter)]
) -> Version:
    number = _number(version)
    return await state.registry.look_up(lambda catalog: catalog.version(name, number))


VersionDep = Annotated[Version, Depends(_version)]


@router.post("/{name}/versions", status_code=201)
async def publish(
    name: str,
    request: Request,
    state: StateDep,
    caller: CallerDep,
    adapters: VisibleDep,
    query: Annotated[PublishFields, Query()],
    size_bytes: SentBytesDep,
) -> ReportedVersion:
    """Publish a version: the two files as multipart/form-data, or JSON with a ``source``. It can be called at once."""
    check_name(state, name)
    project = await project_to_publish(state, adapters, name, size_bytes)
    source: Source
    stated = query.options()
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json":
        try:
            body = SourceBody.model_validate_json(await request.body())
        except ValidationError as invalid:
            raise RequestValidationError(invalid.errors()) from invalid
        source = parse_source(body.source, state.settings.source_rules)
        stated |= body.options()
    else:
        source = UploadSource(MultipartStream(request, needed=_NEEDED).parts())
    if stated.get("alias") is not None:
        require(caller, Scope.ALIASES_WRITE, "an alias")
    published = await publish_version(state, name, source, PublishOptions(**stated, project=project))
    await retention.apply(state, name)
    return _reported(state, published.version, published.report)


@router.get("/{name}/versions", dependencies=[Depends(check_adapter)])
async def list_versions(
    name: str, state: StateDep, adapters: VisibleDep, after: str | None = None, limit: PageLimit = DEFAULT_PAGE
) -> ListObject[VersionObject]:
    """List the versions of an adapter, oldest first; ``after`` is a version's id (``sql@7``) or number."""
    number = None if after is None else _number(after.rpartition("@")[2])
    versions, has_more = await state.registry.look_up(lambda catalog: catalog.versions(name, number, limit))
    renderers = await state.registry.renderers()
    return ListObject[VersionObject](
        data=[_seen(adapters, _shown(state, each, renderers.get(each.id))) for each in versions], has_more=has_more
    )


@router.get(_VERSION)
async def show(version: VersionDep, state: StateDep, adapters: VisibleDep) -> ReportedVersion:
    """Show a version with the report of its inspection."""
    return _seen(adapters, _reported(state, version, await state.registry.report(version)))


@router.get(_VERSION + "/content")
async def content(version: VersionDep, state: StateDep, form: Form = "served") -> VersionFileList:
    """List the files of a version: as served, or as uploaded if they had to be compiled."""
    digest = _digest(version, form)
    directory = await state.blobs.path(digest)
    query = "" if form == "served" else f"?form={form}"
    files = [
        VersionFile(
            name=file,
            size_bytes=(directory / file).stat().st_size,
            path=f"/v1/adapters/{version.adapter}/versions/{version.number}/content/{file}{query}",
        )
        for file in names_in(directory)
    ]
    return VersionFileList(digest=digest, data=files)


@router.get(_VERSION + "/content/{file:path}", response_class=Download)
async def download(version: VersionDep, file: str, state: StateDep, form: Form = "served") -> Download:
    """Download one file of a version; ranges are answered."""
    directory = await state.blobs.path(_digest(version, form))
    if file not in (names := names_in(directory)):
        raise InvalidRequest(f"this version has the files {', '.join(names)}, not {file!r}", param="file")
    return Download(directory / file, filename=Path(file).name, media_type=Download.media_type)


@router.post(_VERSION + "/load")
async def load(version: VersionDep, state: StateDep) -> VersionObject:
    """Load a version ahead of its first request."""
    await residents.make_resident(state, version)
    return _shown(state, version)


@router.post(_VERSION + "/unload")
async def unload(version: VersionDep, state: StateDep) -> VersionObject:
    """Unload a version as soon as no request uses it. A later request loads it again."""
    if version.is_pinned:
        raise InvalidRequest(f"{version.name} is pinned; unpin it first", param="version")
    await state.engine.serving().residency.unload(version)
    return _shown(state, version)


@router.post(_VERSION + "/pin")
async def pin(version: VersionDep, state: StateDep, adapters: VisibleDep) -> VersionObject:
    """Keep a version resident, also across restarts."""
    return _shown(state, await residents.pin(state, version, adapters))


@router.post(_VERSION + "/unpin")
async def unpin(version: VersionDep, state: StateDep) -> VersionObject:
    """Let a version be evicted again."""
    return _shown(state, await residents.unpin(state, version))


@router.post(_VERSION + "/unquarantine")
async def unquarantine(version: VersionDep, state: StateDep) -> VersionObject:
    """Let requests try a version again that harmed the engine. If it does so again, it is quarantined again."""
    return _shown(state, await state.quarantine.lift(version, state.registry))


@router.delete(_VERSION)
async def delete(version: VersionDep, state: StateDep) -> DeletedObject:
    """Delete a version that no alias points to. Requests in flight finish on it; its number is never used again."""
    await delete_version(state, version)
    return DeletedObject(object="adapter.version", id=version.name)


@router.post("/{name}/merge", status_code=201)
async def merge(
    name: str, body: MergeBody, state: StateDep, caller: CallerDep, adapters: VisibleDep
) -> ReportedVersion:
    """Publish a weighted combination of versions as the next version of an adapter. It can be called at once."""
    check_name(state, name)
    if body.alias is not None:
        check_alias(body.alias)
        require(caller, Scope.ALIASES_WRITE, "an alias")
    options = PublishOptions(alias=body.alias, project=await project_to_publish(state, adapters, name))
    published = await publish_merge(state, name, await _recipe(body, state, adapters), options)
    return _reported(state, published.version, published.report)


async def _recipe(body: MergeBody, state: AppState, adapters: VisibleAdapters) -> MergeRecipe:
    is_linear = body.method is MergeMethod.LINEAR
    if body.density is not None and is_linear:
        raise InvalidRequest("method linear adds whole versions up; only ties and dare have a density", param="density")
    if body.seed is not None and not body.method.is_random:
        raise InvalidRequest(f"method {body.method} is not random; only dare has a seed", param="seed")
    if not any(each.weight for each in body.versions):
        raise InvalidRequest("every weight is 0, which makes the base model; give one another value", param="versions")
    density = DEFAULT_DENSITY if body.density is None and not is_linear else body.density
    seed = DEFAULT_SEED if body.seed is None and body.method.is_random else body.seed
    ingredients = [Ingredient(await _resolved(state, adapters, each.reference), each.weight) for each in body.versions]
    return MergeRecipe(tuple(ingredients), body.method, density, seed, body.compress_to)


@router.post("/diff")  # GET would hide an adapter called "diff"
async def diff(body: DiffBody, state: StateDep, caller: CallerDep, adapters: VisibleDep) -> DiffObject:
    """Compare two versions: what they add to the base model's weights, and the engine's scores with each."""
    a, b = await _resolved(state, adapters, body.a), await _resolved(state, adapters, body.b)
    if a.base_fingerprint != b.base_fingerprint:
        raise WrongBase(f"{a.name} and {b.name} were made for different base models, so they do not compare", param="b")
    path_a, path_b = [await state.blobs.path(version.digest) for version in (a, b)]
    async with state.publisher.places.place(caller.project):
        weights = await compare(path_a, path_b, state.settings.resource_limits)
    answers = await compare_versions(state.engine, a, b, caller.project)
    return DiffObject(a=a.name, b=b.name, **answers, **weights)


async def _resolved(state: AppState, adapters: VisibleAdapters, reference: str) -> Version:
    return await state.registry.look_up(lambda _: adapters.find(reference))


def _shown(state: AppState, version: Version, renderer_sha256: str | None = None) -> VersionObject:
    """Describe ``version``, trained on prompts of the renderer with that digest; None: not trained here."""
    adapter = state.registry.catalog.adapter(version.adapter)
    facts = asdict(version) | {
        "id": version.name,
        "version": version.number,
        "original_digest": version.original_digest or version.digest,
        "quarantine": state.quarantine.reason(version),
    }
    return VersionObject(
        **facts,
        aliases=[alias.name for alias in adapter.aliases.values() if alias.version == version.number],
        fine_tuned_names=[name for name, number in adapter.fine_tuned.items() if number == version.number],
        residency="quarantined" if facts["quarantine"] else state.engine.residency_of(version),
        renderer_matches=state.engine.renders_as(renderer_sha256),
    )


def _reported(state: AppState, version: Version, report: Mapping[str, Any] | None) -> ReportedVersion:
    renderer_sha256 = ((report or {}).get("training") or {}).get("renderer_sha256")
    return ReportedVersion(**dict(_shown(state, version, renderer_sha256)), report=report)


def _seen(adapters: VisibleAdapters, shown: _Shown) -> _Shown:
    """Return ``shown`` as the caller may see it: a project that borrows it learns not what its owner made it of."""
    if adapters.owns(shown.adapter):
        return shown
    changed: dict[str, Any] = {"source": "shared"}
    if isinstance(shown, ReportedVersion) and shown.report is not None:
        changed["report"] = {key: value for key, value in shown.report.items() if key not in _OWNERS_REPORT}
    return shown.model_copy(update=changed)


def _digest(version: Version, form: Form) -> str:
    return (version.original_digest if form == "original" else None) or version.digest


def _number(text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise InvalidRequest(f"version {text!r} is not a number; aliases are under /aliases", param="version")
    return int(text)
