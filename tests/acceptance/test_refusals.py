"""Every bad adapter is refused with what to do about it, while a neighbour's stream runs on untouched."""

from __future__ import annotations

import asyncio
import json
import os
import re

import httpx
import pytest

from tests.acceptance.bad_adapters import BAD, CONFIG, PICKLE, WEIGHTS

ENGINE_LIFE = re.compile(r"^patchbay_engine_(?:rebuilds_total|start_seconds|ready) .*$", re.MULTILINE)
"""Which engine runs: how many were rebuilt, and how long this one took to start."""


@pytest.fixture(scope="module")
async def neighbour(server, held_out):
    """Answers of another adapter for as long as the module's refusals take, checked at the end.

    What it was trained for, so that no rounding tips an answer: free text differs with who else is in the batch.
    """
    question, expected = held_out("json")[0]
    async with server.client() as client:

        async def whole() -> str:
            response = await client.chat.completions.create(
                model="json", messages=[{"role": "user", "content": question}], temperature=0, max_tokens=64
            )
            return response.choices[0].message.content

        assert await whole() == expected
        life, done = await engine_life(server.url), asyncio.Event()

        async def again_and_again() -> list[str]:
            answers = [await whole()]
            while not done.is_set():
                answers.append(await whole())
                await asyncio.sleep(0.3)  # or what tests beside this one compute would hardly get a core
            return answers

        running = [asyncio.create_task(again_and_again()) for _ in range(2)]
        yield
        assert not any(stream.done() for stream in running)
        done.set()
        for answers in await asyncio.gather(*running):
            assert set(answers) == {expected}
        assert await engine_life(server.url) == life
        assert "patchbay_engine_rebuilds_total 0.0" in life
        assert await whole() == expected


async def engine_life(url: str) -> list[str]:
    async with httpx.AsyncClient(base_url=url, timeout=120) as http:
        return ENGINE_LIFE.findall((await http.get("/metrics")).text)


@pytest.mark.parametrize("kind", [kind for kind, bad in BAD.items() if bad.found_by not in {"directory", "engine"}])
async def test_a_bad_adapter_is_refused_with_what_to_do(http, push, variant, neighbour, kind):
    directory = variant("sql", 1.0)
    BAD[kind].spoil(directory)
    response = await push("bad", directory)
    error = response.json()["error"]
    assert response.status_code == 400, error
    assert error["code"] == "adapter_refused"
    assert BAD[kind].reason in error["message"] + json.dumps(error["faults"])
    assert all(fault["where"] and fault["found"] and fault["needed"] for fault in error["faults"])
    assert (await http.get("/v1/models/bad")).status_code == 404


@pytest.mark.parametrize("kind", [kind for kind, bad in BAD.items() if bad.found_by == "directory"])
async def test_a_trainers_further_file_is_left_out_of_an_upload_with_a_note(http, push, variant, neighbour, kind):
    directory = variant("sql", 1.0)
    BAD[kind].spoil(directory)
    response = await push("folder", directory)
    assert response.status_code == 201, response.text
    assert BAD[kind].reason in response.json()["report"]["notes"][0]
    kept = (await http.get(f"/v1/adapters/folder/versions/{response.json()['version']}/content")).json()["data"]
    assert [file["name"] for file in kept] == [CONFIG, WEIGHTS]


def linked(directory):
    (directory / WEIGHTS).unlink()
    (directory / WEIGHTS).symlink_to("/dev/zero")


def piped(directory):
    (directory / WEIGHTS).unlink()
    os.mkfifo(directory / WEIGHTS)


def nested(directory):
    (directory / WEIGHTS).unlink()
    (directory / WEIGHTS).mkdir()


def pickled(directory):
    (directory / WEIGHTS).unlink()
    (directory / "adapter_model.bin").write_bytes(PICKLE)


@pytest.mark.parametrize(
    ("spoil", "status", "code"),
    [
        (linked, 403, "source_forbidden"),
        (piped, 403, "source_forbidden"),
        (nested, 403, "source_forbidden"),
        (pickled, 404, "source_not_found"),
    ],
)
async def test_a_directory_of_other_than_plain_files_is_refused(http, variant, neighbour, spoil, status, code):
    directory = variant("sql", 1.0)
    spoil(directory)
    response = await http.post("/v1/adapters/bad/versions", json={"source": directory.as_uri()})
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert (await http.get("/v1/models/bad")).status_code == 404


async def test_an_upload_that_breaks_off_leaves_nothing_behind(http, server):
    head = b'--b\r\nContent-Disposition: form-data; name="f"; filename="adapter_config.json"\r\n\r\n{'
    response = await http.post(
        "/v1/adapters/bad/versions", content=head, headers={"content-type": "multipart/form-data; boundary=b"}
    )
    assert response.status_code == 400
    assert "broke off" in response.json()["error"]["message"]
    # What others publish meanwhile, such as a job of another test, may be staged too.
    assert not [path for path in (server.data_dir / "staging").rglob(CONFIG) if path.read_bytes() == b"{"]


async def test_a_source_outside_the_allowed_directories_is_forbidden(http):
    response = await http.post("/v1/adapters/bad/versions", json={"source": "file:///etc"})
    assert response.status_code == 403
    assert "--source-dir" in response.json()["error"]["message"]
