"""Versions: published, listed, downloaded, loaded, pinned, deleted."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from adapters.names import check_adapter_name, check_alias
from adapters.publish_options import PublishOptions
from adapters.sources.address import parse_source
from adapters.sources.source import Source
from adapters.sources.upload import UploadSource
from adapters.storage.manifest import names_in
from adapters.versions import Version
from server.errors import InvalidRequest
from server.http.download import Download
from server.http.multipart import MultipartStream
from server.http.schemas.response import DeletedObject, ListObject
from server.http.schemas.versions import (
    PublishFields,
    ReportedVersion,
    SourceBody,
    VersionFile,
    VersionFileList,
    VersionObject,
)
from server.operations import residents
from server.operations.deletion import delete_version
from server.operations.publish import check_name_is_free, publish_version
from server.routes.dependencies import DEFAULT_PAGE, PageLimit, StateDep
from server.state import AppState

router = APIRouter(prefix="/v1/adapters/{name}/versions", tags=["versions"])

Form = Literal["served", "original"]

_NUMBER = re.compile(r"[0-9]{1,10}")


async def _version(name: str, version: str, state: StateDep) -> Version:
    return state.registry.catalog.version(name, _number(version))


VersionDep = Annotated[Version, Depends(_version)]


@router.post("", status_code=201)
async def publish(
    name: str, request: Request, state: StateDep, query: Annotated[PublishFields, Query()]
) -> ReportedVersion:
    """Publish a version: the two files as multipart/form-data, or JSON with a ``source``. It can be called at once."""
    check_name_is_free(state, check_adapter_name(name))
    source: Source
    stated = query.options()
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json":
        body = await _source_body(request)
        source = parse_source(body.source, state.settings.source_rules)
        stated |= body.options()
    else:
        source = UploadSource(MultipartStream(request).parts())
    options = PublishOptions(**stated)
    if options.alias is not None:
        check_alias(options.alias)
    published = await publish_version(state, name, source, options)
    return ReportedVersion.from_published(published, state.registry.catalog, state.engine)


async def _source_body(request: Request) -> SourceBody:
    try:
        return SourceBody.model_validate_json(await request.body())
    except ValidationError as invalid:
        raise RequestValidationError(invalid.errors()) from invalid


@router.get("")
async def list_versions(
    name: str, state: StateDep, after: str | None = None, limit: PageLimit = DEFAULT_PAGE
) -> ListObject[VersionObject]:
    """List the versions of an adapter, oldest first; ``after`` is a version's id (``sql@7``) or number."""
    number = None if after is None else _number(after.rpartition("@")[2])
    versions, has_more = state.registry.catalog.versions(name, after=number, limit=limit)
    entries = [_shown(state, version) for version in versions]
    return ListObject[VersionObject].from_entries(entries, has_more=has_more)


@router.get("/{version}")
async def show(version: VersionDep, state: StateDep) -> ReportedVersion:
    """Show a version with the report of its inspection."""
    report = await state.registry.report(version)
    return ReportedVersion.from_version(version, state.registry.catalog, state.engine, report=report)


@router.get("/{version}/content")
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


@router.get("/{version}/content/{file:path}", response_class=Download)
async def download(version: VersionDep, file: str, state: StateDep, form: Form = "served") -> Download:
    """Download one file of a version; ranges are answered."""
    directory = await state.blobs.path(_digest(version, form))
    if file not in (names := names_in(directory)):
        raise InvalidRequest(f"this version has the files {', '.join(names)}, not {file!r}", param="file")
    return Download(directory / file, filename=Path(file).name, media_type=Download.media_type)


@router.post("/{version}/load")
async def load(version: VersionDep, state: StateDep) -> VersionObject:
    """Load a version ahead of its first request."""
    await residents.make_resident(state, version)
    return _shown(state, version)


@router.post("/{version}/unload")
async def unload(version: VersionDep, state: StateDep) -> VersionObject:
    """Unload a version as soon as no request uses it. A later request loads it again."""
    if version.is_pinned:
        raise InvalidRequest(f"{version.name} is pinned; unpin it first", param="version")
    await state.engine.serving().residency.unload(version)
    return _shown(state, version)


@router.post("/{version}/pin")
async def pin(version: VersionDep, state: StateDep) -> VersionObject:
    """Keep a version resident, also across restarts."""
    return _shown(state, await residents.pin(state, version))


@router.post("/{version}/unpin")
async def unpin(version: VersionDep, state: StateDep) -> VersionObject:
    """Let a version be evicted again."""
    return _shown(state, await residents.unpin(state, version))


@router.delete("/{version}")
async def delete(version: VersionDep, state: StateDep) -> DeletedObject:
    """Delete a version that no alias points to. Requests in flight finish on it; its number is never used again."""
    await delete_version(state, version)
    return DeletedObject(object="adapter.version", id=version.name)


def _shown(state: AppState, version: Version) -> VersionObject:
    return VersionObject.from_version(version, state.registry.catalog, state.engine)


def _digest(version: Version, form: Form) -> str:
    return (version.original_digest if form == "original" else None) or version.digest


def _number(text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise InvalidRequest(f"version {text!r} is not a number; aliases are under /aliases", param="version")
    return int(text)
