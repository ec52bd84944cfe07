"""vLLM's own two calls."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

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
        ("no/../hub", 404),
        ("../elsewhere/sql", 403),
        ("~/elsewhere", 403),
        ("~nobody-of-that-name/elsewhere", 404),
        ("no/such/../../../../directory", 403),
        ("./none", 404),
        ("", 403),
        ("ftp://x/y", 403),
        (f"{tmp_path}/sources/none", 404),
    ):
        response = await client.post(LOAD, json={"lora_name": "sql", "lora_path": path})
        assert response.status_code == status, path
    assert (await client.post(LOAD, json={"lora_name": "base", "lora_path": "/x"})).status_code == 409
    for name in ("", "a\nb", "süß", "x" * 300, "ft:a:b:c:d", "ft:x", "sql@stable"):
        response = await client.post(LOAD, json={"lora_name": name, "lora_path": f"{tmp_path}/sources/1"})
        assert (response.status_code, response.json()["error"]["param"]) == (400, "lora_name"), name


async def test_further_keys_are_ignored_as_in_vllm(opened: Opened, client: httpx.AsyncClient, source: str) -> None:
    keys = {"base_model_name": "base", "is_3d_lora_weight": False, "lora_int_id": 7}
    response = await client.post(LOAD, json={"lora_name": "k8s-sql", "lora_path": f"{source}/1", **keys})
    assert response.status_code == 200
    assert await opened.answer("k8s-sql") == "k8s-sql@1"
    assert (await client.post(UNLOAD, json={"lora_name": "k8s-sql", "reason": "x"})).status_code == 200


@pytest.mark.parametrize("path", ["1", "./1", "sources/1", "./sources/1", "~/sources/1", "sources/../sources/1"])
async def test_a_path_is_relative_to_the_working_directory_to_a_source_directory_or_to_the_home(
    opened: Opened, client: httpx.AsyncClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    response = await client.post(LOAD, json={"lora_name": "sql", "lora_path": path})
    assert response.status_code == 200, response.text
    assert await opened.answer("sql") == "sql@1"


NAMES = ["acme/sql-lora", "base:sql", "sql@step-3", "model@7", "/data/adapters/sql", "org/team/sql:v2@3", "a b", "-x"]


@pytest.mark.parametrize("name", NAMES)
async def test_an_adapter_is_called_by_the_very_name_that_it_was_loaded_as(
    opened: Opened, client: httpx.AsyncClient, source: str, name: str
) -> None:
    response = await client.post(LOAD, json={"lora_name": name, "lora_path": f"{source}/1"})
    assert (response.status_code, response.text) == (200, f"Success: LoRA adapter '{name}' added successfully.")
    answered = await opened.answer(name)
    assert await opened.answer(answered) == answered
    models = (await client.get("/v1/models")).json()["data"]
    assert [(model["id"], model["root"]) for model in models] == [("base", "base"), (name, answered)]
    shown = (await client.get(f"/v1/models/{quote(name, safe='')}")).json()
    assert (shown["id"], shown["root"]) == (name, answered)
    adapter = (await client.get(f"/v1/adapters/{answered.partition('@')[0]}")).json()
    assert adapter["lora_name"] == name
    again = await client.post(LOAD, json={"lora_name": name, "lora_path": f"{source}/2"})
    assert (again.status_code, "load_inplace" in again.text) == (400, True)
    body = {"lora_name": name, "lora_path": f"{source}/2", "load_inplace": True}
    assert (await client.post(LOAD, json=body)).status_code == 200
    assert await opened.answer(name) == answered.replace("@1", "@2")
    assert (await client.post(UNLOAD, json={"lora_name": name})).status_code == 200
    assert (await opened.chat(name)).status_code == 404
    assert (await client.post(LOAD, json={"lora_name": name, "lora_path": f"{source}/1"})).status_code == 200


async def test_names_that_fit_the_same_adapter_name_are_two_adapters(
    opened: Opened, client: httpx.AsyncClient, source: str
) -> None:
    names = ["acme/sql", "acme:sql", "acme-sql", "acme@sql"]
    for name in names:
        assert (await client.post(LOAD, json={"lora_name": name, "lora_path": f"{source}/1"})).status_code in {200, 400}
    assert len({await opened.answer(name) for name in ("acme/sql", "acme:sql", "acme@sql")}) == 3


async def test_a_loaded_name_never_means_what_another_adapters_reference_means(
    opened: Opened, client: httpx.AsyncClient, source: str
) -> None:
    await opened.publish("sql")
    for name in ("sql@1", "base"):
        response = await client.post(LOAD, json={"lora_name": name, "lora_path": f"{source}/1", "load_inplace": True})
        assert (response.status_code, response.json()["error"]["code"]) == (409, "name_taken")
    await client.post(LOAD, json={"lora_name": "sql@2", "lora_path": f"{source}/2"})
    await client.post(LOAD, json={"lora_name": "sql@canary", "lora_path": f"{source}/2"})
    assert (await opened.publish("sql", 2))["id"] == "sql@3"
    assert await opened.answer("sql@2") == "sql-2@1"
    body = {"version": 3}
    moved = await client.put("/v1/adapters/sql/aliases/canary", json=body)
    assert (moved.status_code, moved.json()["error"]["code"]) == (409, "name_taken")


async def test_a_loaded_name_survives_a_restart(opening: Opening, make_adapter: MakeAdapter, tmp_path: Path) -> None:
    make_adapter().write(tmp_path / "sources" / "sql")
    async with opening(source_dirs=(tmp_path / "sources",)) as opened:
        body = {"lora_name": "acme/sql", "lora_path": "sql"}
        assert (await opened.client.post(LOAD, json=body)).status_code == 200
    async with opening() as opened:
        assert await opened.answer("acme/sql") == "acme-sql@1"


async def test_a_field_that_is_missing_is_named(client: httpx.AsyncClient) -> None:
    for path, body, field in (
        (LOAD, {"lora_name": "sql"}, "lora_path"),
        (UNLOAD, {}, "lora_name"),
    ):
        response = await client.post(path, json=body)
        assert (response.status_code, response.json()["error"]["param"]) == (400, field)
