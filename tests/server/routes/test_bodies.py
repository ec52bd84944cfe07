"""Bodies: what no database can store is refused, with the field that holds it."""

from __future__ import annotations

import httpx
import pytest

from tests.server.opened import Opened

JOBS = "/v1/fine_tuning/jobs"
ADAPTER = "/v1/adapters/sql"


@pytest.mark.parametrize("character", ["\\u0000", "\\ud800", "\\udfff"])
@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (JOBS, '"model": "base", "training_file": "X"', "training_file"),
        (JOBS, '"model": "X", "training_file": "a"', "model"),
        (JOBS, '"model": "base", "training_file": "a", "metadata": {"a": "X"}', "metadata"),
        (JOBS, '"model": "base", "training_file": "a", "metadata": {"X": "a"}', "metadata"),
        (JOBS, '"model": "base", "training_file": "a", "targets": ["q_proj", "X"]', "targets"),
        (f"{ADAPTER}/rollback", '"alias": "X"', "alias"),
        ("/v1/load_lora_adapter", '"lora_name": "sql", "lora_path": "X"', "lora_path"),
        ("/v1/unload_lora_adapter", '"lora_name": "X"', "lora_name"),
    ],
)
async def test_text_that_a_database_refuses_is_refused_with_its_field(
    opened: Opened, client: httpx.AsyncClient, path: str, body: str, param: str, character: str
) -> None:
    await opened.publish("sql")
    content = "{" + body.replace("X", character) + "}"
    response = await client.post(path, content=content, headers={"content-type": "application/json"})
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


async def test_an_emoji_that_json_wrote_as_a_surrogate_pair_is_text(client: httpx.AsyncClient) -> None:
    body = '{"model": "base", "training_file": "\\ud83d\\ude00"}'
    response = await client.post(JOBS, content=body, headers={"content-type": "application/json"})
    assert "'😀' does not exist" in response.json()["error"]["message"]


async def test_a_body_that_is_nested_deeply_is_refused(client: httpx.AsyncClient) -> None:
    for depth in (300, 900, 100_000):
        body = '{"model": "base", "training_file": "a", "integrations": ' + "[" * depth + "]" * depth + "}"
        response = await client.post(JOBS, content=body, headers={"content-type": "application/json"})
        assert response.status_code == 400
