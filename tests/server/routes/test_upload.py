"""Publishing over HTTP: a multipart upload, or a source that the server fetches."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.engine.fake import FakeBuilder
from tests.server.opened import BASE, Listening, MakeAdapter, Opened, Opening
from tests.until import Until

PATH = "/v1/adapters/sql/versions"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def part(name: str, content: bytes, *, field: str = "file") -> bytes:
    return (
        f'--B\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'.encode() + content + b"\r\n"
    )


async def send(client: httpx.AsyncClient, body: bytes | AsyncIterator[bytes], path: str = PATH) -> httpx.Response:
    return await client.post(path, content=body, headers={"content-type": "multipart/form-data; boundary=B"})


async def nothing_is_left(opened: Opened, data_dir: Path) -> None:
    assert "sql" not in opened.state.registry.catalog
    assert list((data_dir / "staging").glob("*")) == []
    assert list(data_dir.glob("sha256/*/*")) == []


async def test_an_upload_is_a_version_that_answers_at_once(opened: Opened, client: httpx.AsyncClient) -> None:
    files = opened.make_adapter().multipart()
    response = await client.post(PATH, files=files)
    assert response.status_code == 201
    version = response.json()
    assert (version["object"], version["id"], version["version"], version["source"]) == (
        "adapter.version",
        "sql@1",
        1,
        "upload",
    )
    assert len(version["digest"]) == 64
    assert version["aliases"] == ["stable"]
    assert version["size_bytes"] == sum(len(content) for _, content in files.values())
    report = version["report"]
    assert (report["rank"], report["modules"], report["target_modules"]) == (8, 2, ["q_proj", "v_proj"])
    assert await opened.answer("sql") == "sql@1"


async def test_the_engine_tries_an_upload_before_it_is_a_version(
    opened: Opened, client: httpx.AsyncClient, data_dir: Path
) -> None:
    opened.builder.knobs.is_refusing_loads = True
    response = await client.post(PATH, files=opened.make_adapter().multipart())
    assert (response.status_code, response.json()["error"]["code"]) == (400, "adapter_refused")
    await nothing_is_left(opened, data_dir)
    assert opened.engine.residents == {}


async def test_the_probe_s_numbers_are_in_the_version_s_report(opened: Opened, client: httpx.AsyncClient) -> None:
    published = await opened.publish("sql")
    probe = published["report"]["probe"]
    assert (probe["effect"], probe["notes"]) == ({"mean": 0.25, "max": 0.25}, [])
    assert (await client.get(f"{PATH}/1")).json()["report"]["probe"] == probe


@pytest.mark.parametrize("place", ["query", "body"])
async def test_an_inert_adapter_is_a_version_only_where_that_is_allowed(
    opening: Opening, make_adapter: MakeAdapter, data_dir: Path, tmp_path: Path, place: str
) -> None:
    make_adapter().write(tmp_path / "sources" / "sql")
    async with opening(source_dirs=(tmp_path / "sources",)) as opened:
        opened.builder.knobs.effect = 0.0
        body = {"source": (tmp_path / "sources" / "sql").as_uri()}
        refused = await opened.client.post(PATH, json=body)
        assert refused.status_code == 400
        assert refused.json()["error"]["faults"][0]["where"] == "probe"
        await nothing_is_left(opened, data_dir)
        allowed = {"json": {**body, "allow_inert": True}} if place == "body" else {"json": body}
        if place == "query":
            allowed["params"] = {"allow_inert": "true"}
        response = await opened.client.post(PATH, **allowed)
        assert response.status_code == 201
        assert response.json()["report"]["probe"]["notes"][0].startswith("inert")


@pytest.mark.parametrize("place", ["query", "body"])
async def test_an_adapter_for_another_base_is_a_version_only_where_that_is_forced(
    opening: Opening, make_adapter: MakeAdapter, data_dir: Path, tmp_path: Path, place: str
) -> None:
    make_adapter(base_model_name_or_path="org/other-7b").write(tmp_path / "sources" / "sql")
    async with opening(source_dirs=(tmp_path / "sources",)) as opened:
        body = {"source": (tmp_path / "sources" / "sql").as_uri()}
        refused = await opened.client.post(PATH, json=body)
        assert refused.status_code == 400
        [fault] = refused.json()["error"]["faults"]
        assert "org/other-7b" in fault["found"]
        assert "--force-base" in fault["needed"]
        await nothing_is_left(opened, data_dir)
        forced = {"json": {**body, "force_base": True}} if place == "body" else {"json": body}
        if place == "query":
            forced["params"] = {"force_base": "true"}
        response = await opened.client.post(PATH, **forced)
        assert response.status_code == 201, response.text
        assert any("made for org/other-7b" in note for note in response.json()["report"]["notes"])
        merged = await opened.client.post(
            "/v1/adapters/merged/merge", json={"versions": [{"reference": "sql", "weight": 0.5}]}
        )
        assert merged.status_code == 201, merged.text


async def test_forcing_the_base_does_not_make_other_shapes_fit(
    opened: Opened, client: httpx.AsyncClient, data_dir: Path
) -> None:
    files = opened.make_adapter(rank=32, base_model_name_or_path="org/other-7b").multipart()
    response = await client.post(PATH, files=files, params={"force_base": "true"})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "adapter_refused")
    await nothing_is_left(opened, data_dir)


async def test_an_adapter_that_breaks_the_engine_s_arithmetic_never_becomes_a_version(
    opened: Opened, client: httpx.AsyncClient, data_dir: Path
) -> None:
    opened.builder.knobs.effect = float("nan")
    response = await client.post(PATH, files=opened.make_adapter().multipart(), params={"allow_inert": "true"})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "adapter_refused")
    await nothing_is_left(opened, data_dir)
    assert opened.engine.residents == {}


async def test_a_refusal_carries_every_fault(opened: Opened, client: httpx.AsyncClient, data_dir: Path) -> None:
    files = opened.make_adapter(rank=32, zero=True, bias="all", use_dora=True).multipart()
    response = await client.post(PATH, files=files)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["code"] == "adapter_refused"
    assert len(error["faults"]) >= 4
    assert all(set(fault) == {"where", "found", "needed"} for fault in error["faults"])
    assert any("--max-lora-rank 32" in fault["needed"] for fault in error["faults"])
    await nothing_is_left(opened, data_dir)


async def test_further_uploads_are_further_versions(opened: Opened) -> None:
    assert [(await opened.publish("sql", seed))["version"] for seed in (1, 2, 2)] == [1, 2, 3]
    assert await opened.answer("sql") == "sql@1"


async def test_an_upload_may_move_an_alias(opened: Opened, client: httpx.AsyncClient) -> None:
    await opened.publish("sql")
    published = await opened.publish("sql", 2, alias="stable")
    assert published["aliases"] == ["stable"]
    assert await opened.answer("sql") == "sql@2"


@pytest.mark.parametrize("alias", ["7", "", "a b", "-x"])
async def test_an_alias_that_is_no_name_is_refused_before_anything_is_kept(
    opened: Opened, client: httpx.AsyncClient, data_dir: Path, alias: str
) -> None:
    response = await client.post(PATH, files=opened.make_adapter().multipart(), params={"alias": alias})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_name")
    await nothing_is_left(opened, data_dir)


async def test_a_name_that_is_none_is_refused(opened: Opened, client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/adapters/-x/versions", files=opened.make_adapter().multipart())
    assert (response.status_code, response.json()["error"]["param"]) == (400, "name")


async def test_the_name_of_the_base_is_taken(opened: Opened, client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/adapters/base/versions", files=opened.make_adapter().multipart())
    assert (response.status_code, response.json()["error"]["code"]) == (409, "name_taken")


# -- multipart -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 100, 10**6])
@pytest.mark.parametrize("is_weights_first", [False, True])
async def test_parts_come_in_any_order_and_in_any_pieces(
    opened: Opened, client: httpx.AsyncClient, size: int, is_weights_first: bool
) -> None:
    files = opened.make_adapter()
    parts = [part(CONFIG, files.config), part(WEIGHTS, files.weights)]
    body = b"".join(reversed(parts) if is_weights_first else parts) + b"--B--\r\n"

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), size):
            yield body[start : start + size]

    response = await send(client, pieces())
    assert response.status_code == 201, response.text
    digest = response.json()["digest"]
    kept = await opened.state.blobs.verify(digest)
    assert ((kept / CONFIG).read_bytes(), (kept / WEIGHTS).read_bytes()) == (files.config, files.weights)


async def test_a_field_without_file_name_is_known_by_its_own(opened: Opened, client: httpx.AsyncClient) -> None:
    files = opened.make_adapter()
    body = b"".join(
        f'--B\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + content + b"\r\n"
        for name, content in files.multipart().values()
    )
    assert (await send(client, body + b"--B--\r\n")).status_code == 201


async def test_broken_uploads_are_refused_and_leave_nothing(
    opened: Opened, client: httpx.AsyncClient, data_dir: Path
) -> None:
    files = opened.make_adapter()
    config, weights = part(CONFIG, files.config), part(WEIGHTS, files.weights)
    bodies = {
        "empty": b"",
        "no part": b"--B--\r\n",
        "no config": weights + b"--B--\r\n",
        "no weights": config + b"--B--\r\n",
        "a pickle of weights": config + weights + part("adapter_model.bin", b"x") + b"--B--\r\n",
        "a path": part("../" + CONFIG, files.config) + weights + b"--B--\r\n",
        "twice": config + config + weights + b"--B--\r\n",
        "cut in the data": (config + weights)[:-50],
        "cut in the headers": config + b"--B\r\nContent-Dispos",
        "no boundary": b"nonsense",
        "bad header": b"--B\r\n\x00\x01: x\r\n\r\n",
        "endless header": b"--B\r\nContent-Disposition: " + b"x" * 20_000 + b"\r\n\r\n",
        "no disposition": b"--B\r\nX: y\r\n\r\nabc\r\n--B--\r\n",
    }
    for broken, body in bodies.items():
        response = await send(client, body)
        assert response.status_code == 400, broken
        assert response.json()["error"]["message"], broken
        await nothing_is_left(opened, data_dir)


async def test_a_trainers_whole_folder_is_an_adapter_with_notes(opening: Opening, tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    async with opening(builder=FakeBuilder(BASE, directory=tmp_path)) as opened:
        files = opened.make_adapter()
        folder = {
            "README.md": b"# mine",
            "optimizer.pt": b"\x80\x04",
            CONFIG: files.config,
            "chat_template.jinja": b"[{{ messages }}]",
            "tokenizer.json": b"{}",
            WEIGHTS: files.weights,
            "trainer_state.json": b'{"global_step": 500}',
        }
        body = b"".join(part(name, content) for name, content in folder.items()) + b"--B--\r\n"
        response = await send(opened.client, body)
        assert response.status_code == 201, response.text
        left_out, template = response.json()["report"]["notes"]
        assert left_out.endswith("README.md, optimizer.pt, tokenizer.json, trainer_state.json")
        assert "differs from the base model's" in template
        assert [file["name"] for file in (await opened.client.get(f"{PATH}/1/content")).json()["data"]] == [
            CONFIG,
            WEIGHTS,
        ]


@pytest.mark.parametrize("is_in_field", [False, True])
async def test_a_folder_is_sent_with_its_own_path(
    opened: Opened, client: httpx.AsyncClient, data_dir: Path, is_in_field: bool
) -> None:
    files = opened.make_adapter()

    def sent(*folders: str) -> bytes:
        named = {f"{folder}/{name}": data for folder in folders for name, data in files.multipart().values()}
        return b"".join(
            part("blob", data, field=name) if is_in_field else part(name, data) for name, data in named.items()
        )

    several = (await send(client, sent("checkpoint-500", "checkpoint-1000") + b"--B--\r\n")).json()["error"]
    assert "checkpoint-1000, checkpoint-500" in several["faults"][0]["found"]
    await nothing_is_left(opened, data_dir)
    response = await send(client, sent("checkpoint-500") + b"--B--\r\n")
    assert response.status_code == 201, response.text


@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data", "application/x-www-form-urlencoded", ""])
async def test_a_body_that_is_neither_says_what_to_send(client: httpx.AsyncClient, kind: str) -> None:
    response = await client.post(PATH, content=b"x", headers={"content-type": kind} if kind else {})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_request")
    assert "adapter_config.json and adapter_model.safetensors" in response.json()["error"]["message"]


async def test_more_bytes_than_are_accepted_are_refused(opening: Opening, data_dir: Path) -> None:
    async with opening(max_upload_bytes=1000) as opened:
        response = await opened.client.post(PATH, files=opened.make_adapter().multipart())
        assert (response.status_code, response.json()["error"]["code"]) == (413, "source_too_large")
        await nothing_is_left(opened, data_dir)


async def test_a_client_that_leaves_in_the_middle_leaves_nothing(
    opened: Opened, listening: Listening, data_dir: Path, until: Until
) -> None:
    body = part(CONFIG, opened.make_adapter().config) + part(WEIGHTS, b"x" * 10**6)

    async def pieces() -> AsyncIterator[bytes]:
        yield body[:-100]
        await until(lambda: any((data_dir / "staging").glob("*/*")))
        raise ConnectionError("gone")

    async with listening(opened.app) as url, httpx.AsyncClient(base_url=url) as client:
        with pytest.raises(ConnectionError):
            await send(client, pieces())
        await until(lambda: not any((data_dir / "staging").glob("*")))
        await nothing_is_left(opened, data_dir)


# -- sources -----------------------------------------------------------------------------------------------------------


async def test_a_directory_that_is_allowed_is_published(
    opening: Opening, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    make_adapter().write(tmp_path / "sources" / "sql")
    async with opening(source_dirs=(tmp_path / "sources",)) as opened:
        source = f"file://{tmp_path}/sources/sql"
        response = await opened.client.post(PATH, json={"source": source, "alias": "canary"})
        assert response.status_code == 201, response.text
        assert response.json()["source"] == source
        assert response.json()["aliases"] == ["canary", "stable"]


async def test_a_directory_that_is_not_allowed_is_not_read(
    opening: Opening, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    make_adapter().write(tmp_path / "elsewhere")
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources" / "link").symlink_to(tmp_path / "elsewhere")
    async with opening(source_dirs=(tmp_path / "sources",)) as opened:
        for path in ("elsewhere", "sources/link", "sources/../elsewhere"):
            response = await opened.client.post(PATH, json={"source": f"file://{tmp_path}/{path}"})
            assert (response.status_code, response.json()["error"]["code"]) == (403, "source_forbidden")


async def test_nothing_there_is_a_404_that_is_no_unknown_model(opening: Opening, tmp_path: Path) -> None:
    (tmp_path / "sources" / "empty").mkdir(parents=True)
    async with opening(source_dirs=(tmp_path / "sources",)) as opened:
        response = await opened.client.post(PATH, json={"source": f"file://{tmp_path}/sources/empty"})
        assert (response.status_code, response.json()["error"]["code"]) == (404, "source_not_found")


@pytest.mark.parametrize("source", ["ftp://x/y", "http://x/y", "/etc", "", "hf://", "hf://a/../b", "s3://bucket/x"])
async def test_a_source_that_is_not_read_is_forbidden(client: httpx.AsyncClient, source: str) -> None:
    response = await client.post(PATH, json={"source": source})
    assert (response.status_code, response.json()["error"]["code"]) == (403, "source_forbidden")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"source": "file:///x", "alais": "canary"}, "alais"),
        ({}, "source"),
        ({"source": 7}, "source"),
        ([], "body"),
        ("", "body"),
    ],
)
async def test_a_body_that_is_wrong_names_the_field(
    client: httpx.AsyncClient, body: dict[str, Any], field: str
) -> None:
    response = await client.post(PATH, json=body)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_request")
    assert response.json()["error"]["param"] == field


async def test_a_body_that_is_no_json_is_refused(opened: Opened, client: httpx.AsyncClient) -> None:
    await opened.publish("sql")
    for path, method in ((PATH, "POST"), ("/v1/adapters/sql/aliases/stable", "PUT")):
        for content in (b"{", b"", b'{"source": "\\ud800"}', json.dumps({"version": 1}).encode()[:-1]):
            response = await client.request(method, path, content=content, headers={"content-type": "application/json"})
            assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_request"), content
            assert response.json()["error"]["param"] in {"body", "source", "version"}
