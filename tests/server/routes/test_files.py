"""Files by OpenAI's own client: uploaded, listed, downloaded, deleted."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import httpx
import openai as client_library
import pytest
from openai import AsyncOpenAI

from tests.server.opened import Opening

Form = list[tuple[str, tuple[str | None, bytes]]]

FILES = "/v1/files"
PURPOSE = ("purpose", (None, b"fine-tune"))
FILE = ("file", ("train.jsonl", b"{}\n"))
ANCHOR = ("expires_after[anchor]", (None, b"created_at"))
SECONDS = ("expires_after[seconds]", (None, b"3600"))


async def test_an_uploaded_file_is_shown_downloaded_and_deleted(openai: AsyncOpenAI) -> None:
    content = os.urandom(3_000_000)
    file = await openai.files.create(file=("train.jsonl", content), purpose="fine-tune")
    assert (file.object, file.bytes, file.filename, file.purpose) == ("file", len(content), "train.jsonl", "fine-tune")
    assert (file.status, file.expires_at, file.status_details) == ("processed", None, None)
    assert file.id.startswith("file-")
    assert await openai.files.retrieve(file.id) == file == await openai.files.wait_for_processing(file.id)
    assert (await openai.files.content(file.id)).content == content
    async with openai.files.with_streaming_response.content(file.id) as response:
        assert await response.read() == content
    deleted = await openai.files.delete(file.id)
    assert (deleted.id, deleted.object, deleted.deleted) == (file.id, "file", True)
    for call in (openai.files.retrieve, openai.files.content, openai.files.delete):
        with pytest.raises(client_library.NotFoundError) as gone:
            await call(file.id)
        assert gone.value.code == "file_not_found"


async def test_the_older_way_to_download_still_works(openai: AsyncOpenAI) -> None:
    file = await openai.files.create(file=("a", b"text"), purpose="fine-tune")
    with pytest.warns(DeprecationWarning, match="should be used instead"):
        assert await openai.files.retrieve_content(file.id) == "text"


async def test_a_file_expires_as_its_uploader_said(openai: AsyncOpenAI) -> None:
    expiry: Any = {"anchor": "created_at", "seconds": 3600}
    file = await openai.files.create(file=("a", b"x"), purpose="user_data", expires_after=expiry)
    assert file.expires_at == file.created_at + 3600


async def test_files_are_listed_in_pages_newest_first_of_one_purpose_or_all(openai: AsyncOpenAI) -> None:
    ids = [(await openai.files.create(file=("a", b"x"), purpose="fine-tune")).id for _ in range(5)]
    other = (await openai.files.create(file=("b", b"x"), purpose="batch")).id
    assert [file.id async for file in openai.files.list(limit=2)] == [other, *reversed(ids)]
    assert [file.id async for file in openai.files.list(order="asc", purpose="fine-tune")] == ids
    page = (await openai.files.list(limit=2, after=other)).to_dict()
    assert (page["object"], page["first_id"], page["last_id"], page["has_more"]) == ("list", ids[4], ids[3], True)


@pytest.mark.parametrize(
    "form",
    [
        [PURPOSE, FILE, ANCHOR, SECONDS],
        [FILE, PURPOSE, SECONDS, ANCHOR],
        [SECONDS, ANCHOR, FILE, PURPOSE],
        [PURPOSE, ANCHOR, SECONDS, FILE],
    ],
)
async def test_the_fields_come_in_any_order(client: httpx.AsyncClient, form: Form) -> None:
    file = (await client.post(FILES, files=form)).json()
    assert (file["purpose"], file["filename"], file["bytes"]) == ("fine-tune", "train.jsonl", 3)
    assert file["expires_at"] - file["created_at"] == 3600
    assert (await client.get(f"{FILES}/{file['id']}/content")).content == b"{}\n"


@pytest.mark.parametrize("name", ["../../train.jsonl", "C:\\data\\train.jsonl", "/srv/train.jsonl"])
async def test_a_file_s_name_is_never_a_path(client: httpx.AsyncClient, name: str) -> None:
    file = await client.post(FILES, files=[PURPOSE, ("file", (name, b"x"))])
    assert file.json()["filename"] == "train.jsonl"


@pytest.mark.parametrize(
    ("form", "param"),
    [
        ([FILE], "purpose"),
        ([PURPOSE], "file"),
        ([FILE, ("purpose", (None, b"fine-tune-results"))], "purpose"),
        ([("purpose", (None, b"fun")), FILE], "purpose"),
        ([PURPOSE, FILE, FILE], "file"),
        ([PURPOSE, FILE, ("purpos", (None, b"x"))], "purpos"),
        ([PURPOSE, FILE, ("purpose", (None, b"x" * 2000))], "purpose"),
        ([("purpose", (None, b"x" * 2000))], "purpose"),
        ([PURPOSE, FILE, SECONDS], "expires_after.anchor"),
        ([PURPOSE, FILE, ANCHOR], "expires_after.seconds"),
        ([PURPOSE, FILE, ANCHOR, ("expires_after[seconds]", (None, b"1.5"))], "expires_after.seconds"),
        ([PURPOSE, FILE, ANCHOR, ("expires_after[seconds]", (None, b"3599"))], "expires_after.seconds"),
        ([PURPOSE, ("file", ("x" * 256, b"x"))], "file"),
    ],
)
async def test_a_form_that_is_not_in_order_is_refused_and_leaves_nothing(
    client: httpx.AsyncClient, data_dir: Path, form: Form, param: str
) -> None:
    response = await client.post(FILES, files=form)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
    assert (await client.get(FILES)).json()["data"] == []
    assert list(data_dir.glob("training/files/*")) == []


async def test_what_is_no_form_is_told_what_to_send(client: httpx.AsyncClient) -> None:
    response = await client.post(FILES, json={"purpose": "fine-tune"})
    assert (response.status_code, "purpose and file" in response.json()["error"]["message"]) == (400, True)


async def test_a_file_that_is_too_large_is_refused_while_it_arrives(opening: Opening) -> None:
    async with opening(max_file_bytes=2_000_000) as opened:
        for size, status in ((2_000_000, 200), (2_000_001, 413)):
            response = await opened.client.post(FILES, files=[PURPOSE, ("file", ("a", b"x" * size))])
            assert response.status_code == status
        assert (response.json()["error"]["code"], response.json()["error"]["param"]) == ("file_too_large", "file")


@pytest.mark.parametrize(("name", "value"), [("limit", "0"), ("limit", "x"), ("after", "file-x"), ("order", "up")])
async def test_a_page_that_cannot_be_is_refused(client: httpx.AsyncClient, name: str, value: str) -> None:
    response = await client.get(FILES, params={name: value})
    assert (response.status_code, response.json()["error"]["param"]) == (400, name)


async def test_files_survive_a_restart(opening: Opening) -> None:
    async with opening() as opened:
        file = (await opened.client.post(FILES, files=[PURPOSE, FILE])).json()
    async with opening() as reopened:
        assert (await reopened.client.get(f"{FILES}/{file['id']}")).json() == file


async def test_a_file_leaves_space_for_the_database(
    client: httpx.AsyncClient, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = os.statvfs(data_dir)
    monkeypatch.setattr("adapters.storage.disk.RESERVE_BYTES", disk.f_blocks * disk.f_frsize + 1)
    response = await client.post(FILES, files=[PURPOSE, FILE])
    assert (response.status_code, response.json()["error"]["code"]) == (507, "storage_full")
