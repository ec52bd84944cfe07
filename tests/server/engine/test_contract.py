"""What the server relies on from every engine. Runs with the fake; with ``--engine vllm`` against the real one."""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from adapters.errors import AdapterNotFound
from server.engine.protocol import Engine, LoadFailed, Resident
from tests.server.engine.conftest import LoadedIds, MakeResident, RecordingHooks
from tests.server.opened import Caller

CHAT = "/v1/chat/completions"

Until = Callable[[Callable[[], bool]], Awaitable[None]]


async def chat(caller: httpx.AsyncClient, model: str, **body: Any) -> httpx.Response:
    messages = [{"role": "user", "content": "hello"}]
    return await caller.post(CHAT, json={"model": model, "messages": messages, "max_tokens": 2, **body})


async def test_a_new_engine_lives_and_holds_nothing(engine: Engine, loaded: LoadedIds) -> None:
    assert not engine.is_dead
    assert engine.slots > 0
    assert engine.batch.sequences > 0
    assert engine.batch.tokens > 0
    assert engine.context > 0
    assert CHAT in engine.paths
    assert engine.unserved_modules == frozenset()
    assert await loaded() == set()


async def test_an_adapter_is_loaded_until_it_is_unloaded(
    engine: Engine, loaded: LoadedIds, resident: MakeResident
) -> None:
    first, second = resident("sql@1"), resident("poet@1")
    await engine.load(first)
    await engine.load(second)
    assert await loaded() == {first.id, second.id}
    await engine.unload(first)
    assert await loaded() == {second.id}
    await engine.unload(second)
    assert await loaded() == set()


async def test_an_unload_of_an_unknown_adapter_harms_nothing(engine: Engine, resident: MakeResident) -> None:
    await engine.unload(resident())
    assert not engine.is_dead


async def test_a_refused_adapter_leaves_nothing_and_the_engine_unharmed(
    engine: Engine, loaded: LoadedIds, resident: MakeResident, broken_resident: Resident
) -> None:
    with pytest.raises(LoadFailed) as refused:
        await engine.load(broken_resident)
    assert str(refused.value)
    assert not engine.is_dead
    assert await loaded() == set()
    good = resident()
    await engine.load(good)
    assert await loaded() == {good.id}
    await engine.unload(good)


async def test_a_body_is_shown_to_the_hooks_before_any_field_of_it_is_read(
    hooks: RecordingHooks, caller: httpx.AsyncClient, base_name: str
) -> None:
    hooks.replaced = {"model": base_name}
    response = await chat(caller, "nobody")
    assert (response.status_code, response.json()["model"]) == (200, base_name)
    ((path, body),) = hooks.bodies
    assert (path, body["model"], body["max_tokens"]) == (CHAT, "nobody", 2)


async def test_a_body_that_the_hooks_refuse_is_not_answered(
    engine: Engine, hooks: RecordingHooks, caller: httpx.AsyncClient, base_name: str
) -> None:
    hooks.refused = AdapterNotFound("refused")
    assert (await chat(caller, base_name)).status_code == 400
    assert hooks.generations == []
    assert not engine.is_dead


async def test_the_base_answers_without_a_call_of_the_hooks(
    engine: Engine, hooks: RecordingHooks, caller: httpx.AsyncClient, base_name: str
) -> None:
    response = await chat(caller, base_name)
    assert response.status_code == 200
    assert response.json()["model"] == base_name
    assert hooks.asked == []
    (answered, generation) = hooks.generations[0]
    assert answered is None
    assert 1 <= generation.generated_tokens <= 2


async def test_the_hooks_resolve_a_name(
    engine: Engine, hooks: RecordingHooks, caller: httpx.AsyncClient, resident: MakeResident
) -> None:
    sql = hooks.residents["sql"] = resident("sql@7")
    await engine.load(sql)
    response = await chat(caller, "sql")
    assert response.status_code == 200, response.text
    assert response.json()["model"] == "sql@7"
    assert set(hooks.asked) == {"sql"}
    assert [answered for answered, _ in hooks.generations] == [sql]
    assert hooks.running == 0
    await engine.unload(sql)


async def test_the_hooks_get_a_generation_s_demand_and_its_first_output(
    engine: Engine, hooks: RecordingHooks, caller: httpx.AsyncClient, base_name: str
) -> None:
    for stream in (False, True):
        response = await chat(caller, base_name, max_tokens=7, stream=stream, ignore_eos=True)
        assert response.status_code == 200
    assert [(demand.max_tokens, demand.sequences) for demand in hooks.demands] == [(7, 1), (7, 1)]
    assert all(demand.prompt_tokens > 0 for demand in hooks.demands)
    assert hooks.read == hooks.demands


async def test_a_demand_tells_what_the_output_must_match_apart(
    hooks: RecordingHooks, caller: httpx.AsyncClient, base_name: str
) -> None:
    forms = [None, *({"type": "json_schema", "json_schema": {"name": "a", "schema": {"const": n}}} for n in (1, 1, 2))]
    for form in forms:
        more = {} if form is None else {"response_format": form}
        assert (await chat(caller, base_name, max_tokens=2, **more)).status_code == 200
    free, first, again, other = [demand.grammar for demand in hooks.demands]
    assert free is None
    assert first == again != other
    assert len(first or "") == 64


async def test_generations_of_two_cache_scopes_share_no_prefix(
    engine_kind: str, hooks: RecordingHooks, caller: httpx.AsyncClient, base_name: str
) -> None:
    long = {"messages": [{"role": "user", "content": "the same beginning of a prompt " * 20}], "model": base_name}
    for hooks.cache_scope in ("a", "a", "b", None):
        assert (await caller.post(CHAT, json={**long, "max_tokens": 1})).status_code == 200
    first, repeated, other, unscoped = (generation.cached_tokens for _, generation in hooks.generations)
    assert (first, other, unscoped) == (0, 0, 0)
    assert (repeated > 0) == (engine_kind == "vllm")  # the fake has no cache


async def test_a_refusal_of_the_hooks_ends_the_request_before_anything_is_generated(
    engine: Engine, hooks: RecordingHooks, caller: httpx.AsyncClient
) -> None:
    for stream in (False, True):
        response = await chat(caller, "nobody", stream=stream)
        assert response.status_code == 400
    assert hooks.generations == []


async def test_a_stream_is_one_generation_that_ends_with_it(
    engine: Engine, hooks: RecordingHooks, caller: httpx.AsyncClient, resident: MakeResident
) -> None:
    sql = hooks.residents["sql"] = resident("sql@7")
    await engine.load(sql)
    async with caller.stream("POST", CHAT, json=stream_of("sql")) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line async for line in response.aiter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    assert all(line.startswith("data: ") for line in lines)
    ((answered, generation),) = hooks.generations
    assert (answered, hooks.running) == (sql, 0)
    assert generation.generated_tokens == 5
    await engine.unload(sql)


async def test_a_generation_is_finished_before_its_caller_has_read_it(
    engine: Engine, hooks: RecordingHooks, engine_kind: str, base_name: str, caller_of: type[Caller], until: Until
) -> None:
    caller = caller_of(engine.app, CHAT, stream_of(base_name))
    await caller.start()
    await caller.message()
    ((_, generation),) = hooks.generations
    if engine_kind == "vllm":  # the fake writes no faster than its caller reads
        await until(generation.is_finished)
    assert "[DONE]" in await caller.rest()
    assert generation.generated_tokens == 5


async def test_a_score_for_each_token_of_a_prompt_but_the_first(
    engine: Engine, hooks: RecordingHooks, resident: MakeResident
) -> None:
    prompts = some_prompts(engine)
    of_base = await engine.score(None, prompts)
    assert [len(scores) for scores in of_base] == [len(prompt) - 1 for prompt in prompts]
    assert all(score <= 0 for scores in of_base for score in scores)
    assert await engine.score(None, prompts) == of_base
    sql = resident()
    await engine.load(sql)
    of_adapter = await engine.score(sql, prompts)
    assert [len(scores) for scores in of_adapter] == [len(scores) for scores in of_base]
    assert of_adapter != of_base
    assert await engine.score(sql, prompts[1:]) == of_adapter[1:]
    await engine.unload(sql)
    assert (hooks.asked, hooks.generations) == ([], [])


async def test_scoring_beside_a_stream_takes_nothing_from_it(
    engine: Engine, hooks: RecordingHooks, caller: httpx.AsyncClient, resident: MakeResident
) -> None:
    sql = hooks.residents["sql"] = resident("sql@7")
    await engine.load(sql)
    prompts = some_prompts(engine)
    quiet = [await engine.score(adapter, prompts) for adapter in (None, sql)]
    alone = await chat(caller, "sql", **LONG)
    streaming = [asyncio.ensure_future(chat(caller, "sql", **LONG)) for _ in range(3)]
    assert [await engine.score(adapter, prompts) for adapter in (None, sql)] == quiet
    assert {text_of(await answer) for answer in streaming} == {text_of(alone)}
    await engine.unload(sql)


async def test_nan_is_reported_and_reaches_no_other_request(
    engine: Engine, resident: MakeResident, sick_resident: Resident
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
    engine: Engine, hooks: RecordingHooks, caller: httpx.AsyncClient, base_name: str, sick_resident: Resident
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


async def test_answers_are_drawn_with_the_log_probabilities_they_had(engine: Engine, resident: MakeResident) -> None:
    (prompt,) = some_prompts(engine, count=1)
    sql = resident("sql@7")
    await engine.load(sql)
    options = {"samples": 3, "max_tokens": 4, "seed": 5}
    for adapter in (None, sql):
        drawn = await engine.sample(adapter, prompt, **options)
        assert len(drawn) == 3
        assert all(1 <= len(answer.ids) == len(answer.logprobs) <= 4 for answer in drawn)
        assert all(number <= 0 for answer in drawn for number in answer.logprobs)
        assert await engine.sample(adapter, prompt, **options) == drawn
    assert await engine.sample(sql, prompt, **options | {"seed": 6}) != drawn
    greedy = [await engine.sample(sql, prompt, **options | {"samples": 1, "temperature": 0, "seed": n}) for n in (5, 6)]
    assert greedy[0] == greedy[1]
    await engine.unload(sql)


async def test_a_seed_survives_that_a_prompt_is_read_in_parts(engine: Engine) -> None:
    """Prompts that together have more tokens than a step computes."""
    prompts = some_prompts(engine, count=2 * engine.batch.tokens // 500, length=500)
    asked = (engine.sample(None, prompt, samples=1, max_tokens=3, seed=5) for prompt in prompts)
    drawn = [answer for (answer,) in await asyncio.gather(*asked)]
    assert not engine.is_dead
    for prompt, answer in list(zip(prompts, drawn, strict=True))[-3:]:
        (alone,) = await engine.sample(None, prompt, samples=1, max_tokens=3, seed=5)
        assert alone.ids == answer.ids


async def test_the_next_token_s_log_probabilities_are_those_of_a_score(engine: Engine, resident: MakeResident) -> None:
    (prompt,) = some_prompts(engine, count=1)
    sql = resident("sql@7")
    await engine.load(sql)
    found = await engine.next_logprobs(sql, prompt, [7, 11])
    assert len(found) == 2
    assert all(number <= 0 for number in found)
    assert found != await engine.next_logprobs(None, prompt, [7, 11])
    scores = await engine.score(sql, [[*prompt, token] for token in (7, 11)])
    assert found == pytest.approx([each[-1] for each in scores], abs=0.05)  # other kernels compute whole prompts
    await engine.unload(sql)


async def test_an_answer_is_read_as_a_score_and_known_for_what_the_engine_would_write(
    engine: Engine, resident: MakeResident
) -> None:
    (prompt,) = some_prompts(engine, count=1)
    sql = resident("sql@7")
    await engine.load(sql)
    for adapter in (None, sql):
        read = await engine.read(adapter, prompt, [11, 7])
        assert read.logprob < 0
        assert not read.is_greedy
    assert read != await engine.read(None, prompt, [11, 7])
    (written,) = await engine.sample(sql, prompt, samples=1, max_tokens=4, seed=1, temperature=0.0)
    again = await engine.sample(sql, prompt, samples=1, max_tokens=4, seed=2, temperature=0.0)
    assert [answer.ids for answer in again] == [written.ids]
    await engine.unload(sql)


async def test_text_becomes_tokens_of_the_vocabulary(engine: Engine) -> None:
    tokens = engine.encode("The museum opens at nine.")
    assert len(tokens) > 1
    assert all(0 <= token < engine.vocabulary for token in tokens)


LONG: dict[str, Any] = {"max_tokens": 60, "ignore_eos": True, "temperature": 0}


def text_of(response: httpx.Response) -> str:
    text: str = response.json()["choices"][0]["message"]["content"]
    return text


def some_prompts(engine: Engine, *, count: int = 4, length: int = 20) -> list[list[int]]:
    draw = random.Random(0)
    return [[draw.randrange(engine.vocabulary) for _ in range(length + number)] for number in range(count)]


def stream_of(model: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": "hello"}]
    return {"model": model, "messages": messages, "stream": True, "max_tokens": 5, "ignore_eos": True}
