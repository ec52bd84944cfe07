"""The metrics page."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from adapters.rollout import RolloutSide
from server.engine.protocol import Generation
from server.gateway.meter import Meter
from server.metrics import OTHER, AdapterMetrics, Metrics
from tests.server.opened import Opened, Opening
from tests.until import Until

ReadSample = Callable[..., float]


@pytest.fixture
def value(opened: Opened) -> ReadSample:
    """Reads a sample of the open server; 0 if there is none yet."""

    def read(name: str, **labels: str) -> float:
        return opened.state.metrics.registry.get_sample_value(f"patchbay_{name}", labels) or 0.0

    return read


def test_adapters_beyond_the_limit_share_a_label() -> None:
    metrics = AdapterMetrics(CollectorRegistry(), limit=2)
    assert [metrics.label(name) for name in ("a", "b", "c", "a", "d")] == ["a", "b", OTHER, "a", OTHER]


def test_a_limit_of_zero_gives_nobody_a_label() -> None:
    assert AdapterMetrics(CollectorRegistry(), limit=0).label("a") == OTHER


def test_two_apps_count_apart() -> None:
    one, two = (Metrics(10, capacity=2, capacity_bytes=2000) for _ in range(2))
    one.engine.evictions.inc()
    assert b"patchbay_adapter_evictions_total 1.0" in one.page()
    assert b"patchbay_adapter_evictions_total 0.0" in two.page()


async def test_traffic_beyond_the_limit_is_counted_together(opening: Opening) -> None:
    async with opening(metric_adapters=1) as opened:
        for name in ("one", "two", "three"):
            await opened.publish(name)
            await opened.answer(name)
        page = opened.state.metrics.page().decode()
        assert 'patchbay_requests_total{adapter="one",status="200"} 1.0' in page
        assert 'patchbay_requests_total{adapter="(other)",status="200"} 2.0' in page
        assert '"two"' not in page


async def test_the_series_of_a_deleted_adapter_leave_their_place_to_another_once_they_were_read(
    opening: Opening,
) -> None:
    async with opening(metric_adapters=2) as opened:

        async def page() -> str:
            return (await opened.client.get("/metrics")).text

        for name in ("kept", "deleted"):
            await opened.publish(name)
            await opened.answer(name)
        await opened.client.delete("/v1/adapters/deleted")
        assert 'patchbay_requests_total{adapter="deleted",status="200"} 1.0' in await page()
        assert '"deleted"' not in await page()
        for name in ("new", "more"):
            await opened.publish(name)
            await opened.answer(name)
        shown = await page()
        for name in ("kept", "new", "(other)"):
            assert f'patchbay_requests_total{{adapter="{name}",status="200"}} 1.0' in shown
            assert f'patchbay_generated_tokens_total{{adapter="{name}"}}' in shown
        assert '"more"' not in shown


def test_a_deleted_adapter_keeps_its_series_while_something_is_in_flight(collectors: CollectorRegistry) -> None:
    metrics = AdapterMetrics(collectors, limit=1)
    series = metrics.series(metrics.label("deleted"))
    series.in_flight.inc()
    metrics.make_room(living=())
    series.in_flight.dec()
    assert (metrics.label("new"), metrics.label("deleted")) == (OTHER, "deleted")
    metrics.make_room(living=())
    assert metrics.label("new") == "new"
    assert metrics.series("new") is not series


def test_the_sides_of_a_deleted_adapter_leave_with_its_name(collectors: CollectorRegistry) -> None:
    metrics = AdapterMetrics(collectors, limit=2)
    meter = Meter(metrics)
    for name in ("gone", "kept"):
        metrics.series(metrics.label(name))
        for side in RolloutSide:
            meter.tried(name, side, 1.0, has_failed=side is RolloutSide.SHADOW)
    metrics.make_room(living=("kept",))
    page = generate_latest(collectors).decode()
    assert "gone" not in page
    assert page.count('patchbay_rollout_requests_total{adapter="kept"') == 3


async def test_requests_are_counted_by_adapter_and_not_by_version(opened: Opened, value: ReadSample) -> None:
    for seed in (1, 2):
        await opened.publish("sql", seed)
    for model in ("sql", "sql@2", "base"):
        await opened.answer(model)
    assert value("requests_total", adapter="sql", status="200") == 2
    assert value("requests_total", adapter="(base)", status="200") == 1


async def test_refusals_are_counted_by_the_status_that_was_sent(opened: Opened, value: ReadSample) -> None:
    await opened.publish_cold("sql")
    await opened.chat("nobody")
    opened.builder.knobs.is_refusing_loads = True
    await opened.chat("sql")
    opened.engine.die()
    await opened.chat("sql")
    assert value("requests_total", adapter="(base)", status="404") == 1  # no adapter was meant
    assert value("requests_total", adapter="sql", status="400") == 1
    assert value("requests_total", adapter="(base)", status="503") == 1  # nothing could be decided
    assert value("requests_total", adapter="sql", status="499") == 0


async def test_a_client_that_leaves_before_an_answer_is_counted_as_that(
    opened: Opened, value: ReadSample, until: Until
) -> None:
    await opened.publish_cold("sql")
    opened.builder.knobs.load_s = 0.05
    caller = opened.call("sql")
    await until(lambda: "sql@1" in opened.residents)
    await caller.close()
    assert value("requests_total", adapter="sql", status="499") == 1


async def test_tokens_are_counted_when_a_generation_ends(opened: Opened, value: ReadSample) -> None:
    await opened.publish("sql")
    caller = opened.call("sql", words=7)
    await caller.start()
    await caller.message()
    assert value("requests_in_flight", adapter="sql") == 1
    assert value("generated_tokens_total", adapter="sql") == 0
    await caller.rest()
    assert value("requests_in_flight", adapter="sql") == 0
    assert value("generated_tokens_total", adapter="sql") == 7


async def test_tokens_of_a_client_that_left_are_counted(opened: Opened, value: ReadSample) -> None:
    await opened.publish("sql")
    caller = opened.call("sql", words=10**6)
    await caller.start()
    for _ in range(3):
        await caller.message()
    await caller.leave()
    assert value("requests_in_flight", adapter="sql") == 0
    assert 3 <= value("generated_tokens_total", adapter="sql") < 100


async def test_latencies_are_observed_where_the_engine_tells_them(opened: Opened, value: ReadSample) -> None:
    await opened.answer("base")
    assert value("time_to_first_token_seconds_count", adapter="(base)") == 0
    generation = Generation(prompt_tokens=5, first_token_s=0.25, queue_s=0.125)
    with opened.state.hooks.meter.generation(None, generation, cold_s=1.0, turn_s=0.5):
        pass
    assert value("prompt_tokens_total", adapter="(base)") == 5
    assert value("time_to_first_token_seconds_sum", adapter="(base)") == 1.75
    assert value("queue_wait_seconds_sum", adapter="(base)") == 1.625
    assert value("turn_wait_seconds_count", adapter="(base)") == 2
    assert value("inter_token_seconds_count", adapter="(base)") == 0


async def test_loads_evictions_and_residents_are_counted(opening: Opening) -> None:
    async with opening(max_residents=2) as opened:
        for seed, name in enumerate(("one", "two", "three")):
            await opened.publish(name, seed)
            await opened.answer(name)
        read = opened.state.metrics.registry.get_sample_value
        assert read("patchbay_adapter_load_seconds_count") == 3
        assert read("patchbay_adapter_evictions_total") == 1
        assert (read("patchbay_residents"), read("patchbay_residents_capacity")) == (2, 2)
        assert read("patchbay_slots") == 4


IN_FLIGHT = re.compile(r"^vllm:lora_requests_info\{(.*)\} \d", re.MULTILINE)


async def test_the_adapters_in_flight_are_one_series_under_the_names_that_clients_call(opened: Opened) -> None:
    def shown() -> list[str]:
        return IN_FLIGHT.findall(opened.state.metrics.page().decode())

    for name in ("sql", "poet", "json"):
        await opened.publish(name)
    await opened.publish("sql", 2)
    assert shown() == ['max_lora="4",running_lora_adapters="",waiting_lora_adapters=""']
    callers = [opened.call(model, words=10**6) for model in ("sql", "sql@1", "poet", "base")]
    for caller in callers:
        await caller.start()
    assert shown() == ['max_lora="4",running_lora_adapters="poet,sql",waiting_lora_adapters=""']
    for caller in callers:
        await caller.leave()
    assert shown() == ['max_lora="4",running_lora_adapters="",waiting_lora_adapters=""']


async def test_an_adapter_whose_requests_wait_is_shown_as_waiting(opened: Opened, until: Until) -> None:
    names = ["a", "b", "c", "d", "e"]  # one more than slots
    for seed, name in enumerate(names):
        await opened.publish(name, seed)
    callers = [opened.call(name, words=10**6) for name in names]
    for caller in callers[:4]:
        await caller.start()
    await until(lambda: opened.state.engine.running().scheduler.waiting == 1)
    page = opened.state.metrics.page().decode()
    assert IN_FLIGHT.findall(page) == ['max_lora="4",running_lora_adapters="a,b,c,d",waiting_lora_adapters="e"']
