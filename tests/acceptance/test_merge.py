"""Merged versions answer as what they are the sum of; vLLM serves them."""

from __future__ import annotations

import asyncio

import pytest

ROWS = 20


async def answers(client, model, rows):
    responses = [
        client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": question}], max_tokens=96, temperature=0
        )
        for question, _ in rows
    ]
    return [response.choices[0].message.content for response in await asyncio.gather(*responses)]


async def first_token(client, model, question):
    """The log-probabilities of the likeliest first tokens."""
    response = await client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": question}],
        max_tokens=1,
        temperature=0,
        logprobs=True,
        top_logprobs=5,
    )
    return {each.token: each.logprob for each in response.choices[0].logprobs.content[0].top_logprobs}


@pytest.fixture
def merge(http):
    """Merges versions, written REF:WEIGHT, and gives the name of the result."""

    async def merged(name, *parts, **how):
        split = [part.split(":") for part in parts]
        versions = [{"reference": reference, "weight": float(weight)} for reference, weight in split]
        response = await http.post(f"/v1/adapters/{name}/merge", json={"versions": versions, **how})
        assert response.status_code == 201, response.text
        return response.json()["id"]

    return merged


async def test_two_halves_of_an_adapter_answer_exactly_as_it(client, held_out, merge):
    halves = await merge("halves", "sql@1:0.5", "sql@1:0.5")
    rows = held_out("sql")[:ROWS]
    assert await answers(client, halves, rows) == await answers(client, "sql@1", rows)


async def test_what_is_added_and_taken_away_again_leaves_the_rest(client, held_out, merge):
    rest = await merge("rest", "sql@1:1", "sql@1:-1", "json@1:1", compress_to=8)
    rows = held_out("json")[:ROWS]
    assert await answers(client, rest, rows) == await answers(client, "json@1", rows)


async def test_a_sum_less_one_of_its_terms_is_the_other(client, held_out, merge):
    both = await merge("both", "sql@1:1", "json@1:1")
    rows = held_out("sql")[:ROWS]
    assert await answers(client, both, rows) != await answers(client, "sql@1", rows)
    less = await merge("less", f"{both}:1", "json@1:-1", compress_to=8)
    assert await answers(client, less, rows) == await answers(client, "sql@1", rows)
    for question, _ in rows[:5]:
        one, other = [await first_token(client, model, question) for model in (less, "sql@1")]
        likely = [token for token in one.keys() & other.keys() if other[token] > -5]
        assert likely
        assert {token: one[token] for token in likely} == pytest.approx({t: other[t] for t in likely}, abs=0.15)


async def test_what_peft_merges_is_served(client, held_out, merge):
    blend = await merge("blend", "sql@1:1", "json@1:1", method="ties", density=0.8)
    assert all(await answers(client, blend, held_out("sql")[:3]))
