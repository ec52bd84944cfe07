"""Uploads in parts by OpenAI's own client."""

from __future__ import annotations

import asyncio
import hashlib
import os
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import openai as client_library
import pytest
from openai import AsyncOpenAI
from openai.types import Upload
from sqlalchemy import update

from tests.server.opened import Opened, Opening
from trainer.schema import uploads

UPLOADS = "/v1/uploads"
FIELDS: dict[str, Any] = {"filename": "train.jsonl", "mime_type": "text/jsonl", "purpose": "fine-tune"}


async def created(openai: AsyncOpenAI, size: int, **fields: Any) -> Upload:
    return await openai.uploads.create(**{**FIELDS, "bytes": size, **fields})


async def part_ids(openai: AsyncOpenAI, upload_id: str, *parts: bytes) -> list[str]:
    return [(await openai.uploads.parts.create(upload_id, data=part)).id for part in parts]


async def test_a_file_is_uploaded_in_parts(openai: AsyncOpenAI, data_dir: Path) -> None:
    content = os.urandom(5_000_000)
    upload = await openai.uploads.upload_file_chunked(
        file=content,
        filename="train.jsonl",
        bytes=len(content),
        mime_type="text/jsonl",
        purpose="fine-tune",
        part_size=1_500_000,
        md5=hashlib.md5(content).hexdigest(),
    )
    assert (upload.status, upload.bytes, upload.object) == ("completed", len(content), "upload")
    assert upload.file is not None
    assert (upload.file.filename, upload.file.bytes, upload.file.purpose) == ("train.jsonl", len(content), "fine-tune")
    assert (await openai.files.content(upload.file.id)).content == content
    assert list((data_dir / "training" / "uploads").glob("*")) == []


async def test_a_file_on_disk_is_uploaded_in_parts(openai: AsyncOpenAI, tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_bytes(b"x" * 100_000)
    upload = await openai.uploads.upload_file_chunked(
        file=path, mime_type="text/jsonl", purpose="batch", part_size=30_000
    )
    assert upload.file is not None
    assert (upload.file.filename, upload.file.purpose) == ("requests.jsonl", "batch")
    assert upload.file.expires_at == upload.file.created_at + 30 * 24 * 3600


async def test_the_parts_are_joined_in_the_order_of_the_completion(openai: AsyncOpenAI) -> None:
    upload = await created(openai, 6, expires_after={"anchor": "created_at", "seconds": 3600})
    assert (upload.status, upload.file, upload.expires_at) == ("pending", None, upload.created_at + 3600)
    ids = await part_ids(openai, upload.id, b"ab", b"cd", b"lost", b"ef")
    done = await openai.uploads.complete(upload.id, part_ids=[ids[3], ids[0], ids[1]])
    assert done.file is not None
    assert (await openai.files.content(done.file.id)).content == b"efabcd"
    assert done.file.expires_at == done.file.created_at + 3600


@pytest.mark.parametrize("parts", [["a"], ["a", "b", "b"], ["a", "b", "x"], ["b", "a"]])
async def test_a_wrong_completion_is_refused_and_may_be_repeated(openai: AsyncOpenAI, parts: list[str]) -> None:
    upload = await created(openai, 4)
    ids = dict(zip("ab", await part_ids(openai, upload.id, b"12", b"34"), strict=True))
    md5 = hashlib.md5(b"1234").hexdigest()
    with pytest.raises(client_library.BadRequestError) as refused:
        await openai.uploads.complete(upload.id, part_ids=[ids.get(part, part) for part in parts], md5=md5)
    assert (refused.value.param or "").split(".")[0] == ("md5" if parts == ["b", "a"] else "part_ids")
    assert (await openai.files.list()).data == []
    done = await openai.uploads.complete(upload.id, part_ids=list(ids.values()), md5=md5.upper())
    assert done.status == "completed"


async def test_an_upload_that_has_ended_takes_nothing_more(opened: Opened, openai: AsyncOpenAI) -> None:
    cancelled, expired, completed = [await created(openai, 2) for _ in range(3)]
    ids = [(await part_ids(openai, each.id, b"12")) for each in (cancelled, expired, completed)]
    assert (await openai.uploads.cancel(cancelled.id)).status == "cancelled"
    await openai.uploads.complete(completed.id, part_ids=ids[2])
    async with opened.state.registry.database.write() as connection:
        past = datetime.fromisoformat("2020-01-01T00:00:00+00:00")
        await connection.execute(update(uploads).where(uploads.c.id == expired.id).values(expires_at=past))
    for upload, parts, status in zip(
        (cancelled, expired, completed), ids, ("cancelled", "expired", "completed"), strict=True
    ):
        for call in (
            openai.uploads.complete(upload.id, part_ids=parts),
            openai.uploads.cancel(upload.id),
            openai.uploads.parts.create(upload.id, data=b"3"),
        ):
            with pytest.raises(client_library.BadRequestError, match=f"is {status}: create another one"):
                await call


async def test_two_completions_at_once_make_one_file(openai: AsyncOpenAI) -> None:
    upload = await created(openai, 2_000_000)
    ids = await part_ids(openai, upload.id, b"x" * 1_000_000, b"y" * 1_000_000)
    results = await asyncio.gather(
        *(openai.uploads.complete(upload.id, part_ids=ids) for _ in range(4)), return_exceptions=True
    )
    assert sorted(type(result).__name__ for result in results) == [*["BadRequestError"] * 3, "Upload"]
    assert len((await openai.files.list()).data) == 1


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"purpose": "fun"}, 400, "purpose"),
        ({"purpose": "batch_output"}, 400, "purpose"),
        ({"filename": ""}, 400, "file"),
        ({"bytes": 0}, 400, "bytes"),
        ({"bytes": 2**40}, 413, "bytes"),
        ({"expires_after": {"anchor": "created_at", "seconds": 1}}, 400, "expires_after.seconds"),
        ({"byts": 1}, 400, "byts"),
    ],
)
async def test_an_upload_that_could_be_no_file_is_refused_at_once(
    client: httpx.AsyncClient, fields: dict[str, Any], status: int, param: str
) -> None:
    response = await client.post(UPLOADS, json={**FIELDS, "bytes": 1, **fields})
    assert (response.status_code, response.json()["error"]["param"]) == (status, param)


async def test_the_bytes_of_all_parts_are_bounded(client: httpx.AsyncClient, data_dir: Path) -> None:
    upload = (await client.post(UPLOADS, json={**FIELDS, "bytes": 10})).json()
    parts = f"{UPLOADS}/{upload['id']}/parts"
    for size, status in ((10, 200), (11, 413), (10, 200), (1, 413)):
        assert (await client.post(parts, files={"data": b"x" * size})).status_code == status
    assert len(list(data_dir.glob("training/uploads/*/*"))) == 2


@pytest.mark.parametrize("form", [{"file": b"x"}, {"data": b"x", "more": b"y"}])
async def test_a_form_of_other_fields_is_refused(client: httpx.AsyncClient, form: dict[str, bytes]) -> None:
    upload = (await client.post(UPLOADS, json={**FIELDS, "bytes": 10})).json()
    response = await client.post(f"{UPLOADS}/{upload['id']}/parts", files=form)
    assert response.status_code == 400
    assert (await client.post(f"{UPLOADS}/upload_none/parts", files={"data": b"x"})).status_code == 404


async def test_uploads_survive_a_restart_and_are_swept_when_they_have_expired(opening: Opening, data_dir: Path) -> None:
    async with opening() as opened:
        upload = (await opened.client.post(UPLOADS, json={**FIELDS, "bytes": 2})).json()
        part = (await opened.client.post(f"{UPLOADS}/{upload['id']}/parts", files={"data": b"12"})).json()
        other = (await opened.client.post(UPLOADS, json={**FIELDS, "bytes": 2})).json()
        await opened.client.post(f"{UPLOADS}/{other['id']}/parts", files={"data": b"12"})
    async with opening() as reopened:
        body = {"part_ids": [part["id"]]}
        done = (await reopened.client.post(f"{UPLOADS}/{upload['id']}/complete", json=body)).json()
        assert done["file"]["bytes"] == 2
        store = reopened.state.records.uploads
        clock = store.files.clock

        async def later(connection: Any) -> datetime:
            return await clock(connection) + timedelta(hours=2)

        assert await replace(store, files=replace(store.files, clock=later)).sweep(-1) == [other["id"]]
        assert list(data_dir.glob("training/uploads/*")) == []
