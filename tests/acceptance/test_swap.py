"""New versions and moved aliases while traffic runs: no failed request, no stream of two minds."""

from __future__ import annotations

import asyncio

STREAMS = 16
MOVES = 50
LENGTH = 48
# What sql and json say to it is 4 nats ahead of anything else at each token: a batch of another size rounds otherwise,
# and changes neither.
QUESTION = "List the name of employees where the department is research and the age is less than 44."


async def stream_text(client, model: str) -> tuple[str, str]:
    """Return the version that answered a stream, and its text."""
    stream = await client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": QUESTION}],
        temperature=0,
        max_tokens=LENGTH,
        stream=True,
    )
    version, text = "", ""
    async for chunk in stream:
        version = chunk.model
        text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
    return version, text


async def test_an_uploaded_version_answers_the_next_request(client, push, variant):
    published = await push("fresh", variant("sql", 0.5))
    assert published.status_code == 201, published.text
    assert published.json()["id"] == "fresh@1"
    assert published.json()["aliases"] == ["stable"]
    version, _ = await stream_text(client, "fresh")
    assert version == "fresh@1"


async def test_a_second_version_waits_for_its_alias_but_can_be_called_by_number(client, push, variant):
    await push("twice", variant("sql", 1.0))
    assert (await push("twice", variant("sql", -1.0))).json()["aliases"] == []
    assert (await stream_text(client, "twice"))[0] == "twice@1"
    assert (await stream_text(client, "twice@2"))[0] == "twice@2"


async def test_fifty_alias_moves_under_sixteen_streams_fail_nobody_and_mix_nothing(client, http, push, variant):
    await push("moving", variant("sql", 1.0))
    await push("moving", variant("json", 1.0))
    references = {f"moving@{number}": (await stream_text(client, f"moving@{number}"))[1] for number in (1, 2)}
    assert references["moving@1"] != references["moving@2"]
    done = asyncio.Event()

    async def traffic() -> list[tuple[str, str]]:
        answers = []
        while not done.is_set():
            answers.append(await stream_text(client, "moving"))
        return answers

    streams = [asyncio.create_task(traffic()) for _ in range(STREAMS)]
    for move in range(MOVES):
        version = 2 - move % 2
        moved = await http.put("/v1/adapters/moving/aliases/stable", json={"version": version})
        assert moved.status_code == 200
        first = await client.chat.completions.create(
            model="moving", messages=[{"role": "user", "content": "hi"}], max_tokens=1
        )
        assert first.model == f"moving@{version}"
    done.set()
    answers = [answer for task in streams for answer in await task]
    assert len(answers) >= STREAMS
    assert {version for version, _ in answers} == set(references)
    assert [(version, text) for version, text in answers if references[version] != text] == []


async def test_vllms_own_load_and_unload_calls_work(client, http, variant):
    body = {"lora_name": "trl-policy-v1", "lora_path": str(variant("sql", 0.7))}
    loaded = await http.post("/v1/load_lora_adapter", json=body)
    assert (loaded.status_code, loaded.text) == (200, "Success: LoRA adapter 'trl-policy-v1' added successfully.")
    assert (await http.post("/v1/load_lora_adapter", json=body)).status_code in {400, 409}
    assert (await stream_text(client, "trl-policy-v1"))[0] == "trl-policy-v1@1"
    assert (await http.post("/v1/unload_lora_adapter", json={"lora_name": "trl-policy-v1"})).status_code == 200
    gone = await http.post("/v1/chat/completions", json={"model": "trl-policy-v1", "messages": []})
    assert gone.status_code in {400, 404}


async def test_a_deleted_adapter_finishes_its_streams_and_then_is_unknown(client, http, push, variant):
    await push("leaving", variant("sql", 0.9))
    expected = (await stream_text(client, "leaving"))[1]
    streams = [asyncio.create_task(stream_text(client, "leaving")) for _ in range(4)]
    await asyncio.sleep(0)
    while not any(
        view["id"] == "leaving@1" and view["leases"] for view in (await http.get("/v1/residents")).json()["data"]
    ):
        await asyncio.sleep(0.01)
    assert (await http.delete("/v1/models/leaving")).status_code == 200
    finished = await asyncio.gather(*streams, return_exceptions=True)
    assert ("leaving@1", expected) in finished
    models = [model.id async for model in client.models.list()]
    assert "leaving" not in models
