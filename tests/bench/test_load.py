"""What the client notes is what the server did."""

from __future__ import annotations

from typing import Any

from bench.load import LoadClient, LoadSpec, StreamedAnswer
from bench.workload import Ask, Lengths, Workload

WORKLOAD = Workload(["a", "b"], prompt=Lengths(4, 8), answer=Lengths(2, 6), vocabulary=4096)


def assert_in_order(answer: StreamedAnswer) -> None:
    times = [answer.sent_s, *answer.came_s]
    assert times == sorted(times)


async def test_an_open_loop_sends_each_request_once_and_none_before_its_time(stand_in: Any) -> None:
    asks = WORKLOAD.asks(40, seed=0, rate=400)
    async with LoadClient(stand_in.url) as client:
        load = await client.open_loop(asks)
    assert [answer.ask for answer in load.answers] == asks
    assert sorted(body["prompt"] for body in stand_in.asked) == sorted(list(ask.prompt) for ask in asks)
    assert all(answer.sent_s >= ask.at_s for answer, ask in zip(load.answers, asks, strict=True))
    assert load.late_ms >= 0


async def test_an_open_loop_does_not_wait_for_answers(stand_in: Any) -> None:
    stand_in.pause_s = 0.2
    async with LoadClient(stand_in.url) as client:
        await client.open_loop([Ask(0, "a", (20,), 2) for _ in range(10)])
    assert stand_in.most_at_once == 10


async def test_a_closed_loop_has_so_many_requests_open_and_no_more(stand_in: Any) -> None:
    asks = WORKLOAD.asks(20, seed=0)
    stand_in.pause_s = 0.01
    async with LoadClient(stand_in.url) as client:
        load = await client.closed_loop(asks, 3)
    assert stand_in.most_at_once == 3
    assert [answer.ask for answer in load.answers] == asks


async def test_every_token_has_a_time_and_they_are_in_order(stand_in: Any) -> None:
    async with LoadClient(stand_in.url) as client:
        load = await client.closed_loop(WORKLOAD.asks(10, seed=0), 2)
    for answer in load.complete:
        assert_in_order(answer)
        assert len(answer.came_s) == answer.tokens == answer.ask.tokens
        assert len(answer.between_ms) == answer.tokens - 1
        assert answer.came_s[-1] <= load.took_s
    assert len(load.first_ms) == 10
    assert load.client_cpu > 0


async def test_who_answered_and_what_is_kept(stand_in: Any) -> None:
    async with LoadClient(stand_in.url) as client:
        answer = await client.ask(Ask(0, "a", (20,), 3))
    assert (answer.model, answer.text, answer.failure) == ("a@1", "0 1 2 ", None)


async def test_a_refusal_a_broken_stream_and_a_short_answer_are_failures_and_count_for_nothing(stand_in: Any) -> None:
    async with LoadClient(stand_in.url) as client:
        answers = [await client.ask(Ask(0, model, (20,), 3)) for model in ("unknown", "broken", "short")]
    assert [answer.failure for answer in answers] == [
        'BrokenOff: 404: {"error": {"message": "no such model"}}',
        "BrokenOff: {'message': 'engine died'}",
        "2 tokens instead of 3",
    ]
    load = LoadSpec(tuple(answers), 1.0, 0.0)
    assert (load.tokens_per_s, load.first_ms, load.between_ms) == (0, [], [])
