"""Scenarios send both servers the same requests, in alternation, and their rows hold the numbers of both."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bench.cli import app
from bench.options import BenchOptions, RunningServers
from bench.record import Row
from bench.report import tables
from bench.scenarios.cold import cold
from bench.scenarios.fair import fair
from bench.scenarios.many import many
from bench.scenarios.overhead import overhead
from bench.shape import Shape
from bench.target import BenchTarget
from tests.bench.stand_in import StandIn, run_stand_in


@pytest.fixture
async def both(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[StandIn, StandIn]]:
    """Stand-ins for our server and for stock vLLM, which scenarios use instead of starting servers."""
    async with run_stand_in() as ours, run_stand_in() as theirs:

        @asynccontextmanager
        async def servers(bench: BenchOptions, adapters: int) -> AsyncIterator[RunningServers]:
            names = [f"a{number}" for number in range(adapters)]
            none = subprocess.Popen(["true"])  # noqa: ASYNC220 - it ends at once
            targets = [
                BenchTarget(kind, stand_in.url, none, Path())
                for kind, stand_in in zip(bench.kinds, (ours, theirs), strict=True)
            ]
            yield RunningServers(Shape.of("embedded", Path()), names, targets, Path())
            none.wait()

        monkeypatch.setattr(BenchOptions, "servers", servers)
        monkeypatch.setattr("bench.comparison.QUIET_S", 0.0)  # a stand-in leaves no worker spinning
        yield ours, theirs


def assert_asked_the_same(both: tuple[StandIn, StandIn], models: set[str]) -> None:
    ours, theirs = (
        Counter((body["model"], tuple(body["prompt"]), body["max_tokens"]) for body in stand_in.bodies)
        for stand_in in both
    )
    assert ours == theirs
    assert {model for model, _, _ in ours} == models


def assert_rows_are_whole(measured: Row, cases: list[str], peer: str = "vllm") -> None:
    assert [row["case"] for row in measured["rows"]] == cases
    for row in measured["rows"]:
        assert row["patchbay"]["failures"] == row[peer]["failures"] == {}
        assert row["patchbay"]["first_ms"]["n"] > 0
        for value, low, high in row["ratio"].values():
            assert 0 < low <= high
            assert value > 0
    origin = {"command": "", "at": "", "commit": "", "hardware": "", "versions": {}}
    assert all(case in tables({"scenario": {**origin, **measured}}) for case in cases)


@pytest.mark.parametrize("peer", ["vllm", "keyless"])
async def test_overhead_asks_one_adapter_by_more_and_more_clients(both: tuple[StandIn, StandIn], peer: Any) -> None:
    measured = await overhead(peer=peer, clients=[1, 3], repeats=2, prompt="2-3", answer="2-3")
    assert_rows_are_whole(measured, ["1 client", "3 clients"], peer)
    assert_asked_the_same(both, {"a0"})
    assert [stand_in.most_at_once for stand_in in both] == [3, 3]


@pytest.mark.parametrize("rate", [None, 200.0])
async def test_many_asks_more_and_more_adapters_and_the_base(both: tuple[StandIn, StandIn], rate: float | None) -> None:
    load = {"clients": 4, "requests": 30, "repeats": 2, "prompt": "2-3", "answer": "2-3"}
    measured = await many(peer="vllm", slots=[1, 2], adapters=[0, 1, 3], rate=rate, **load)
    cases = [case for n in (1, 2) for case in (f"base, {n} slots", f"1 adapters, {n} slots", f"3 adapters, {n} slots")]
    assert_rows_are_whole(measured, cases)
    assert_asked_the_same(both, {"base", "a0", "a1", "a2"})


async def test_cold_visitors_are_each_another_adapter_and_hot_ones_are_not(
    both: tuple[StandIn, StandIn], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.scenarios.cold.LEAD_S", 0.02)
    measured = await cold(peer="vllm", neighbours=2, visits=3, every=0.02, repeats=1)
    visitors = ["neighbours of hot visitors", "hot visitors", "neighbours of cold visitors", "cold visitors"]
    assert_rows_are_whole(measured, visitors)
    for stand_in in both:
        asked = Counter(body["model"] for body in stand_in.bodies)
        assert [asked[f"a{number}"] for number in (2, 3, 4)] == [1, 1, 1]
        assert asked["a1"] >= 3
    assert measured["stall_p99"].keys() == {"patchbay", "vllm"}


async def test_fair_asks_the_third_adapter_while_two_are_flooded(both: tuple[StandIn, StandIn]) -> None:
    measured = await fair(peer="vllm", clients=2, seconds=0.3, every=0.05, repeats=1, prompt="2-3", answer="2-3")
    assert_rows_are_whole(measured, ["trickle alone", "trickle", "floods"])
    for stand_in in both:
        asked = Counter(body["model"] for body in stand_in.bodies)
        assert asked["a0"] > 0
        assert asked["a1"] > 0
        assert asked["a2"] > 0


@pytest.mark.parametrize("wrong", ["many --prompt long", "many --popularity pareto", "fair --answer 0"])
def test_options_that_cannot_be_read_are_refused_before_anything_starts(wrong: str) -> None:
    refused = CliRunner().invoke(app, wrong.split())
    assert refused.exit_code == 2
    assert wrong.split()[-1] in refused.output
