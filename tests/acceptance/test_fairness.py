"""Two adapters that flood two slots, and what others get meanwhile. Counted in the floods' answers, not in time."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager

import pytest

import embedded

FLOODS = ("sql", "pirate")
CALLERS = 8
"""Of each flood, without a pause."""
BOUND = 20 * len(FLOODS) * CALLERS
"""So many answers the floods may get before somebody else has one; without turns it is as many as they like."""


@pytest.fixture(scope="module")
def server(start_server, tmp_path_factory):
    server = start_server(
        tmp_path_factory.mktemp("fair") / "data", "--turn-s", "0.01", "--probe-reference", "off", "--max-loras", "2"
    )
    server.wait_ready()
    return server


@pytest.fixture
async def flooding(client):
    """Flood both adapters for the length of a block; yields the answers that each got."""

    async def call(model: str, answers: Counter) -> None:
        while True:
            await client.chat.completions.create(
                model=model,
                messages=[{"role": "user", "content": "Tell me about the harbour."}],
                max_tokens=24,
                extra_body={"ignore_eos": True},
            )
            answers[model] += 1

    @asynccontextmanager
    async def flood():
        answers: Counter = Counter()
        callers = [asyncio.ensure_future(call(model, answers)) for model in FLOODS for _ in range(CALLERS)]
        while any(answers[model] < CALLERS for model in FLOODS):
            await asyncio.sleep(0.01)
        try:
            yield answers
        finally:
            for caller in callers:
                caller.cancel()
            await asyncio.gather(*callers, return_exceptions=True)

    return flood


async def test_a_quiet_adapter_is_answered_beside_two_floods(client, flooding):
    async with flooding() as answers:
        before = answers.total()
        for number in range(1, 4):
            answer = await client.chat.completions.create(
                model="json", messages=[{"role": "user", "content": "hello"}], max_tokens=4
            )
            assert answer.model == "json@1"
            assert answers.total() - before < number * BOUND


async def test_the_base_model_is_answered_beside_two_floods(client, flooding):
    async with flooding() as answers:
        before = answers.total()
        answer = await client.chat.completions.create(
            model="embedded-base", messages=[{"role": "user", "content": "hello"}], max_tokens=4, n=3
        )
        assert len(answer.choices) == 3
        assert answers.total() - before < BOUND


async def test_an_adapter_is_published_beside_two_floods(push, flooding):
    async with flooding() as answers:
        before = answers.total()
        published = await push("copy", embedded.ADAPTERS / "sql")
        assert published.status_code == 201, published.text
        assert answers.total() - before < 10 * BOUND  # its bytes are checked meanwhile


async def test_both_floods_go_on_when_the_others_are_served(http, flooding):
    async with flooding() as answers:
        before = dict(answers)
        while any(answers[model] < before[model] + CALLERS for model in FLOODS):
            await asyncio.sleep(0.01)
    waiting = [line for line in (await http.get("/metrics")).text.splitlines() if "patchbay_turns_waiting" in line]
    assert waiting[-1].endswith(" 0.0")
