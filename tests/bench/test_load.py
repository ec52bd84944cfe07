"""The load client notes every token, its time and every failure."""

from __future__ import annotations

from bench.load import LoadClient, LoadResult, StreamedAnswer
from bench.workload import Lengths, LoadRequest, Workload
from tests.bench.stand_in import StandIn

WORKLOAD = Workload(["a", "b"], prompt=Lengths(4, 8), answer=Lengths(2, 6), vocabulary=4096)


def assert_in_order(answer: StreamedAnswer) -> None:
    times = [answer.sent_s, *answer.arrived_s]
    assert times == sorted(times)


async def test_an_open_loop_sends_each_request_once_and_none_before_its_time(stand_in: StandIn) -> None:
    requests = WORKLOAD.requests(40, seed=0, rate=400)
    async with LoadClient(stand_in.url) as client:
        load = await client.open_loop(requests)
    assert [answer.request for answer in load.answers] == requests
    assert sorted(body["prompt"] for body in stand_in.bodies) == sorted(list(request.prompt) for request in requests)
    assert all(answer.sent_s >= request.at_s for answer, request in zip(load.answers, requests, strict=True))
    assert load.late_ms >= 0


async def test_an_open_loop_does_not_wait_for_answers(stand_in: StandIn) -> None:
    stand_in.pause_s = 0.2
    async with LoadClient(stand_in.url) as client:
        await client.open_loop([LoadRequest(0, "a", (20,), 2) for _ in range(10)])
    assert stand_in.most_at_once == 10


async def test_a_closed_loop_has_so_many_requests_open_and_no_more(stand_in: StandIn) -> None:
    requests = WORKLOAD.requests(20, seed=0)
    stand_in.pause_s = 0.01
    async with LoadClient(stand_in.url) as client:
        load = await client.closed_loop(requests, 3)
    assert stand_in.most_at_once == 3
    assert [answer.request for answer in load.answers] == requests


async def test_every_token_has_a_time_and_they_are_in_order(stand_in: StandIn) -> None:
    async with LoadClient(stand_in.url) as client:
        load = await client.closed_loop(WORKLOAD.requests(10, seed=0), 2)
    for answer in load.complete:
        assert_in_order(answer)
        assert len(answer.arrived_s) == answer.tokens == answer.request.tokens
        assert len(answer.between_ms) == answer.tokens - 1
        assert answer.arrived_s[-1] <= load.took_s
    assert len(load.first_ms) == 10
    assert load.client_cpu > 0


async def test_the_answer_has_its_model_and_its_text(stand_in: StandIn) -> None:
    async with LoadClient(stand_in.url) as client:
        answer = await client.send(LoadRequest(0, "a", (20,), 3))
    assert (answer.model, answer.text, answer.failure) == ("a@1", "0 1 2 ", None)


async def test_a_chat_answer_has_the_times_of_its_tokens_alone(stand_in: StandIn) -> None:
    request = LoadRequest(0, "a", "hi", 3, chat=True, exact=False)
    async with LoadClient(stand_in.url) as client:
        answer = await client.send(request)
    assert (len(answer.arrived_s), answer.text, answer.failure) == (3, "0 1 2 ", None)
    [body] = stand_in.bodies
    assert body["messages"] == [{"role": "user", "content": "hi"}]
    assert (body["ignore_eos"], body["skip_special_tokens"]) == (False, True)


async def test_a_refusal_a_broken_stream_and_a_short_answer_are_failures_and_do_not_count(
    stand_in: StandIn,
) -> None:
    async with LoadClient(stand_in.url) as client:
        answers = [await client.send(LoadRequest(0, model, (20,), 3)) for model in ("unknown", "broken", "short")]
    assert [answer.failure for answer in answers] == [
        'BrokenOff: 404: {"error": {"message": "no such model"}}',
        "BrokenOff: {'message': 'engine died'}",
        "2 tokens instead of 3",
    ]
    load = LoadResult(tuple(answers), 1.0, 0.0)
    assert (load.tokens_per_s, load.first_ms, load.between_ms) == (0, [], [])
