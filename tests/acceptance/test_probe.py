"""The probe on the real engine: what passes every check of the files and is wrong all the same never gets a version."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import httpx
import pytest
import torch
from safetensors.torch import load_file, save_file

import embedded
from adapters.registry.registry import Registry
from adapters.sources.directory import DirectorySource
from adapters.storage.blobs import Blobs
from adapters.storage.staging import Staging
from tests.acceptance.bad_adapters import BAD

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
NEIGHBOURS = ("embedded-base", "pirate")
# Each token of both answers is 1.8 nats ahead of the next: a batch of another size rounds otherwise, and changes none.
QUESTION = {"role": "user", "content": "What is the capital of France?"}


@pytest.fixture
def scaled(tmp_path):
    """Write a copy of an example adapter with every weight times a factor."""

    def write(factor: float):
        directory = tmp_path / f"times-{factor:g}"
        directory.mkdir()
        source = embedded.ADAPTERS / "sql"
        (directory / CONFIG).write_bytes((source / CONFIG).read_bytes())
        tensors = load_file(source / WEIGHTS)
        times = {name: (t.float() * factor).to(t.dtype).contiguous() for name, t in tensors.items()}
        save_file(times, directory / WEIGHTS)
        return directory

    return write


async def stream(client, model: str) -> str:
    chunks = await client.chat.completions.create(
        model=model,
        messages=[QUESTION],
        stream=True,
        temperature=0,
        max_tokens=60,
    )
    return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks if chunk.choices])


@pytest.mark.parametrize("kind", [kind for kind, bad in BAD.items() if bad.found_by == "engine"])
async def test_weights_that_are_fine_as_numbers_and_wrong_as_a_model_are_refused(client, http, push, variant, kind):
    directory = variant("sql", 1.0)
    BAD[kind].spoil(directory)
    alone = [await stream(client, model) for model in NEIGHBOURS]
    neighbours = asyncio.gather(*(stream(client, model) for model in NEIGHBOURS))
    response = await push("probed", directory)
    assert response.status_code == 400, response.text
    (fault,) = response.json()["error"]["faults"]
    assert fault["where"] == "probe"
    assert BAD[kind].reason in fault["found"]
    assert await neighbours == alone
    assert (await http.get("/v1/adapters/probed")).status_code == 404


async def test_an_inert_adapter_that_is_meant_is_a_version_with_a_note(push, scaled):
    response = await push("meant", scaled(1e-18), allow_inert="true")
    assert response.status_code == 201, response.text
    probe = response.json()["report"]["probe"]
    assert probe["effect"] == {"mean": 0, "max": 0}
    assert probe["notes"][0].startswith("inert")


async def test_a_good_adapter_s_report_has_the_numbers_of_its_probe(push, variant):
    response = await push("good", variant("sql", 0.9))
    assert response.status_code == 201, response.text
    probe = response.json()["report"]["probe"]
    assert probe["tokens"] > 100
    assert 0.1 < probe["effect"]["mean"] < probe["effect"]["max"]
    reference = probe["reference"]
    assert 0 < reference["floor"]["mean"] < reference["limit"]
    assert 0 < reference["deviation"]["mean"] < 0.1 * probe["effect"]["mean"]


@pytest.fixture
async def smuggled(server, http, tmp_path):
    """A version with weights of NaN, written past every check: only the registry and the bytes know of it."""
    directory = Path(shutil.copytree(embedded.ADAPTERS / "sql", tmp_path / "nan"))
    weights = load_file(directory / WEIGHTS)
    save_file({name: torch.full_like(t, torch.nan) for name, t in weights.items()}, directory / WEIGHTS)
    source = DirectorySource(directory, [directory])
    async with (
        Registry.open(f"sqlite+aiosqlite:///{server.data_dir.absolute() / 'registry.db'}") as registry,
        Staging(server.data_dir, max_bytes=2**30).open() as staged,
    ):
        origin = await source.fetch(staged)
        await Blobs(server.data_dir).put(staged)
        version = await registry.add_version(
            "smuggled",
            digest=staged.manifest().digest,
            base_fingerprint=registry.catalog.version("sql", 1).base_fingerprint,
            rank=8,
            size_bytes=1,
            source=origin,
            report={},
        )
    path = f"/v1/adapters/smuggled/versions/{version.number}"
    while (await http.get(path)).status_code == 404:  # the server reads other processes' writes twice a second
        await asyncio.sleep(0.05)
    yield path
    await http.delete("/v1/adapters/smuggled")


async def test_an_adapter_that_makes_nan_all_the_same_is_quarantined_and_its_neighbours_are_not_touched(
    client, http, smuggled
):
    alone = [await stream(client, model) for model in NEIGHBOURS]
    neighbours = asyncio.gather(*(stream(client, model) for model in NEIGHBOURS))
    for _ in range(2):
        answer = await http.post("/v1/chat/completions", json={"model": "smuggled", "messages": [QUESTION]})
        assert answer.status_code == 424, answer.text
        assert answer.json()["error"]["code"] == "adapter_quarantined"
    assert (await http.get(smuggled)).json()["residency"] == "quarantined"
    assert await neighbours == alone
    assert [await stream(client, model) for model in NEIGHBOURS] == alone


async def test_log_probabilities_of_prompts_beside_other_requests_leave_the_engine_alive(http):
    async def ask(model: str) -> httpx.Response:
        return await http.post(
            "/v1/completions",
            json={"model": model, "prompt": "The museum opens at nine and", "max_tokens": 4, "prompt_logprobs": 1},
        )

    answers = await asyncio.gather(*map(ask, ["sql", "pirate", "embedded-base"] * 4))
    assert {answer.status_code for answer in answers} == {200}
    assert all(answer.json()["choices"][0]["prompt_logprobs"] for answer in answers)
