"""vLLM's own two calls."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from adapters.names import FineTunedName
from tests.server.opened import MakeAdapter, Opened, Opening

LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"


@pytest.fixture
async def opened(opening: Opening, make_adapter: MakeAdapter, tmp_path: Path) -> AsyncIterator[Opened]:
    """A server that may read two adapters on its own disk."""
    for seed in (1, 2):
        make_adapter(seed).write(tmp_path / "sources" / str(seed))
    async with opening(source_dirs=(tmp_path / "sources",)) as opened:
        yield opened


@pytest.fixture
def source(tmp_path: Path) -> str:
    return str(tmp_path / "sources")


async def test_a_loaded_adapter_answers_and_is_resident(opened: Opened, client: httpx.AsyncClient, source: str) -> None:
    response = await client.post(LOAD, json={"lora_name": "sql", "lora_path": f"{source}/1"})
    assert (response.status_code, response.text) == (200, "Success: LoRA adapter 'sql' added successfully.")
    assert opened.residents == {"sql@1": ("resident", 0)}
    assert await opened.answer("sql") == "sql@1"


async def test_a_name_that_is_loaded_is_loaded_again_only_in_place(
    opened: Opened, client: httpx.AsyncClient, source: str
) -> None:
    await client.post(LOAD, json={"lora_name": "sql", "lora_path": f"{source}/1"})
    taken = await client.post(LOAD, json={"lora_name": "sql", "lora_path": f"{source}/2"})
    assert taken.status_code == 400
    assert "load_inplace" in taken.json()["error"]["message"]
    caller = opened.call("sql")
    await caller.start()
    again = await client.post(LOAD, json={"lora_name": "sql", "lora_path": f"{source}/2", "load_inplace": True})
    assert again.status_code == 200
    assert await opened.answer("sql") == "sql@2"
    assert "sql@2" not in await caller.rest()


async def test_an_unloaded_adapter_is_unknown(opened: Opened, client: httpx.AsyncClient, source: str) -> None:
    await client.post(LOAD, json={"lora_name": "sql", "lora_path": f"{source}/1"})
    response = await client.post(UNLOAD, json={"lora_name": "sql"})
    assert (response.status_code, response.text) == (200, "Success: LoRA adapter 'sql' removed successfully.")
    assert (await opened.chat("sql")).status_code == 404
    assert opened.residents == {}
    assert (await client.post(UNLOAD, json={"lora_name": "sql"})).status_code == 404


async def test_unloading_a_fine_tuned_name_deletes_its_version_alone(
    opened: Opened, client: httpx.AsyncClient, source: str
) -> None:
    for number in (1, 2):
        body = {"lora_name": "sql", "lora_path": f"{source}/{number}", "load_inplace": True}
        await client.post(LOAD, json=body)
    name = FineTunedName("ft:base:patchbay::abc")
    version = await opened.state.registry.name_result("sql", 1, name, alias="best", report={})
    other = await client.post(UNLOAD, json={"lora_name": name.text, "lora_int_id": version.id + 1})
    assert (other.status_code, other.json()["error"]["param"]) == (400, "lora_int_id")
    assert (await client.post(UNLOAD, json={"lora_name": name.text, "lora_int_id": version.id})).status_code == 200
    assert (await opened.chat(name.text)).status_code == 404
    assert (await opened.chat("sql@1")).status_code == 404
    assert await opened.answer("sql") == "sql@2"
    assert (await client.post(UNLOAD, json={"lora_name": name.text})).status_code == 404


async def test_only_what_may_be_read_is_loaded(opened: Opened, client: httpx.AsyncClient, tmp_path: Path) -> None:
    for path, status in (
        (str(tmp_path), 403),
        ("no/../hub", 403),
        ("ftp://x/y", 403),
        (f"{tmp_path}/sources/none", 404),
    ):
        response = await client.post(LOAD, json={"lora_name": "sql", "lora_path": path})
        assert response.status_code == status, path
    assert (await client.post(LOAD, json={"lora_name": "base", "lora_path": "/x"})).status_code == 409
    assert (await client.post(LOAD, json={"lora_name": "-x", "lora_path": "/x"})).status_code == 400
    assert (await client.post(LOAD, json={"lora_name": "ft:a:b:c:d", "lora_path": "/x"})).status_code == 400


async def test_a_field_that_is_missing_or_unknown_is_named(client: httpx.AsyncClient) -> None:
    for path, body, field in (
        (LOAD, {"lora_name": "sql"}, "lora_path"),
        (LOAD, {"lora_name": "sql", "lora_path": "/x", "inplace": True}, "inplace"),
        (UNLOAD, {}, "lora_name"),
    ):
        response = await client.post(path, json=body)
        assert (response.status_code, response.json()["error"]["param"]) == (400, field)
