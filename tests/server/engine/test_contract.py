"""What the server relies on from any engine. Held to it: the fake; with ``--engine vllm`` the real one."""

from __future__ import annotations

import asyncio
import json
import math
import random
from typing import Any

import pytest

from server.engine.protocol import LoadFailed

CHAT = "/v1/chat/completions"


async def chat(caller: Any, model: str, **body: Any) -> Any:
    messages = [{"role": "user", "content": "hello"}]
    return await caller.post(CHAT, json={"model": model, "messages": messages, "max_tokens": 2, **body})


async def test_a_new_engine_lives_and_holds_nothing(engine: Any) -> None:
    assert not engine.is_dead
    assert engine.slots > 0
    assert engine.batch.sequences > 0
    assert engine.batch.tokens > 0
    assert CHAT in engine.paths
    assert await engine.loaded() == frozenset()


async def test_what_is_loaded_is_known_until_it_is_unloaded(engine: Any, resident: Any) -> None:
    first, second = resident("sql@1"), resident("poet@1")
    await engine.load(first)
    await engine.load(second)
    assert await engine.loaded() == {first.id, second.id}
    await engine.unload(first)
    assert await engine.loaded() == {second.id}
    await engine.unload(second)
    assert await engine.loaded() == frozenset()


async def test_unloading_what_is_not_there_harms_nothing(engine: Any, resident: Any) -> None:
    await engine.unload(resident())
    assert not engine.is_dead


async def test_a_refused_adapter_leaves_nothing_and_the_engine_unharmed(
    engine: Any, resident: Any, broken_resident: Any
) -> None:
    with pytest.raises(LoadFailed) as refused:
        await engine.load(broken_resident)
    assert str(refused.value)
    assert not engine.is_dead
    assert await engine.loaded() == frozenset()
    good = resident()
    await engine.load(good)
    assert await engine.loaded() == {good.id}
    await engine.unload(good)


async def test_the_base_answers_without_asking_the_gate(engine: Any, hooks: Any, caller: Any, base_name: str) -> None:
    response = await chat(caller, base_name)
    assert response.status_code == 200
    assert response.json()["model"] == base_name
    assert hooks.asked == []
    (answered, generation) = hooks.generations[0]
    assert answered is None
    assert 1 <= generation.generated_tokens <= 2


async def test_the_gate_decides_what_a_name_means(engine: Any, hooks: Any, caller: Any, resident: Any) -> None:
    loaded = hooks.residents["sql"] = resident("sql@7")
    await engine.load(loaded)
    response = await chat(caller, "sql")
    assert response.status_code == 200, response.text
    assert response.json()["model"] == "sql@7"
    assert set(hooks.asked) == {"sql"}
    assert [answered for answered, _ in hooks.generations] == [loaded]
    assert hooks.running == 0
    await engine.unload(loaded)


async def test_the_gate_is_told_what_a_generation_asks_and_when_its_prompt_was_read(
    engine: Any, hooks: Any, caller: Any, base_name: str
) -> None:
    for stream in (False, True):
        response = await chat(caller, base_name, max_tokens=7, stream=stream, ignore_eos=True)
        assert response.status_code == 200
    assert [(demand.most_tokens, demand.sequences) for demand in hooks.demands] == [(7, 1), (7, 1)]
    assert all(demand.prompt_tokens > 0 for demand in hooks.demands)
    assert hooks.read == hooks.demands


async def test_a_refusal_of_the_gate_ends_the_request_before_anything_is_generated(
    engine: Any, hooks: Any, caller: Any
) -> None:
    for stream in (False, True):
        response = await chat(caller, "nobody", stream=stream)
        assert response.status_code == 400
    assert hooks.generations == []


async def test_a_stream_is_one_generation_that_ends_with_it(
    engine: Any, hooks: Any, caller: Any, resident: Any
) -> None:
    loaded = hooks.residents["sql"] = resident("sql@7")
    await engine.load(loaded)
    async with caller.stream("POST", CHAT, json=stream_of("sql")) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line async for line in response.aiter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    assert all(line.startswith("data: ") for line in lines)
    ((answered, generation),) = hooks.generations
    assert (answered, hooks.running) == (loaded, 0)
    assert generation.generated_tokens == 5
    await engine.unload(loaded)


async def test_what_the_engine_is_done_with_is_known_before_it_was_read(
    engine: Any, hooks: Any, kind: str, base_name: str, caller_of: Any, until: Any
) -> None:
    caller = caller_of(engine.app, CHAT, stream_of(base_name))
    await caller.start()
    await caller.message()
    ((_, generation),) = hooks.generations
    if kind == "vllm":  # the fake writes no faster than its caller reads
        await until(generation.is_over)
    assert "[DONE]" in await caller.rest()
    assert generation.generated_tokens == 5


async def test_a_score_for_each_token_of_a_prompt_but_the_first(engine: Any, hooks: Any, resident: Any) -> None:
    prompts = some_prompts(engine)
    of_base = await engine.score(None, prompts)
    assert [len(scores) for scores in of_base] == [len(prompt) - 1 for prompt in prompts]
    assert all(score <= 0 for scores in of_base for score in scores)
    assert await engine.score(None, prompts) == of_base
    loaded = resident()
    await engine.load(loaded)
    of_adapter = await engine.score(loaded, prompts)
    assert [len(scores) for scores in of_adapter] == [len(scores) for scores in of_base]
    assert of_adapter != of_base
    assert await engine.score(loaded, prompts[1:]) == of_adapter[1:]
    await engine.unload(loaded)
    assert (hooks.asked, hooks.generations) == ([], [])


async def test_scoring_beside_a_stream_takes_nothing_from_it(
    engine: Any, hooks: Any, caller: Any, resident: Any
) -> None:
    loaded = hooks.residents["sql"] = resident("sql@7")
    await engine.load(loaded)
    prompts = some_prompts(engine)
    quiet = [await engine.score(adapter, prompts) for adapter in (None, loaded)]
    alone = await chat(caller, "sql", **LONG)
    streaming = [asyncio.ensure_future(chat(caller, "sql", **LONG)) for _ in range(3)]
    assert [await engine.score(adapter, prompts) for adapter in (None, loaded)] == quiet
    assert {text_of(await answer) for answer in streaming} == {text_of(alone)}
    await engine.unload(loaded)


async def test_arithmetic_that_breaks_down_is_told_and_touches_nobody_else(
    engine: Any, resident: Any, sick_resident: Any
) -> None:
    prompts = some_prompts(engine, count=64)  # as many as the engine's cache has blocks: they get those of the sick one
    of_base = await engine.score(None, prompts)
    await engine.load(sick_resident)
    for scores in await engine.score(sick_resident, some_prompts(engine, count=40, length=120)):
        assert any(math.isnan(score) for score in scores)
    await engine.unload(sick_resident)
    assert await engine.score(None, prompts) == of_base
    assert not engine.is_dead


async def test_no_token_leaves_of_a_generation_that_is_nan(
    engine: Any, hooks: Any, caller: Any, base_name: str, sick_resident: Any
) -> None:
    hooks.residents["sick"] = sick_resident
    await engine.load(sick_resident)
    before = text_of(await chat(caller, base_name, **LONG))
    neighbour = asyncio.ensure_future(chat(caller, base_name, **LONG))
    assert (await chat(caller, "sick")).status_code >= 400
    streamed = (await chat(caller, "sick", stream=True)).text
    events = [json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: {")]
    assert "error" in events[-1]
    assert not any(choice["delta"].get("content") for event in events for choice in event.get("choices", ()))
    assert hooks.broken == [sick_resident, sick_resident]
    assert text_of(await neighbour) == before
    await engine.unload(sick_resident)
    assert text_of(await chat(caller, base_name, **LONG)) == before
    assert not engine.is_dead


async def test_text_becomes_tokens_of_the_vocabulary(engine: Any) -> None:
    tokens = engine.encode("The museum opens at nine.")
    assert len(tokens) > 1
    assert all(0 <= token < engine.vocabulary for token in tokens)


LONG: dict[str, Any] = {"max_tokens": 60, "ignore_eos": True, "temperature": 0}


def text_of(response: Any) -> str:
    text: str = response.json()["choices"][0]["message"]["content"]
    return text


def some_prompts(engine: Any, *, count: int = 4, length: int = 20) -> list[list[int]]:
    draw = random.Random(0)
    return [[draw.randrange(engine.vocabulary) for _ in range(length + number)] for number in range(count)]


def stream_of(model: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": "hello"}]
    return {"model": model, "messages": messages, "stream": True, "max_tokens": 5, "ignore_eos": True}
