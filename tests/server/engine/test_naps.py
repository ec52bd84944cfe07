"""How vLLM's processes wait for each other: word is awaited by spinning, then by naps, then as vLLM does."""

from __future__ import annotations

import time
from typing import Any

import pytest
from vllm.distributed.device_communicators import shm_broadcast
from vllm.distributed.device_communicators.shm_broadcast import SpinCondition
from vllm.platforms import current_platform

from server.engine import naps
from server.engine.naps import NAP_S, SPIN_S, NappingCondition


class Clock:
    """The time, which stands still but for naps; the naps themselves are noted."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.naps: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock.monotonic)
    monkeypatch.setattr(time, "sleep", clock.sleep)
    return clock


class Poller:
    """Of the socket that word is announced on; says nothing and notes for how long it was asked."""

    def __init__(self) -> None:
        self.asked: list[int | None] = []

    def poll(self, timeout: int | None) -> list[Any]:
        self.asked.append(timeout)
        return []


@pytest.fixture
def reader(clock: Clock) -> NappingCondition:
    """Has just read something; without sockets."""
    condition = NappingCondition.__new__(NappingCondition)
    condition.is_reader, condition.busy_loop_s, condition.poller = True, 1.0, Poller()
    condition.read_cancel_socket = condition.local_notify_socket = None
    condition.record_read()
    return condition


def test_word_that_comes_at_once_is_not_slept_over(reader: NappingCondition, clock: Clock) -> None:
    for _ in range(10):
        reader.wait()
    assert clock.naps == []


def test_who_waits_longer_naps_and_spins_again_for_the_next_word(reader: NappingCondition, clock: Clock) -> None:
    reader.wait()
    clock.now += SPIN_S
    reader.wait()
    reader.wait()
    assert clock.naps == [NAP_S, NAP_S]
    reader.record_read()
    clock.now += 10 * SPIN_S  # a step of the model: the wait begins after it
    reader.wait()
    assert clock.naps == [NAP_S, NAP_S]


def test_after_a_second_of_silence_word_is_waited_for_as_vllm_does(reader: NappingCondition, clock: Clock) -> None:
    reader.wait()
    clock.now += reader.busy_loop_s + SPIN_S
    reader.wait(timeout_ms=7)
    assert (clock.naps, reader.poller.asked) == ([], [7])


@pytest.mark.parametrize("is_cpu", [True, False])
def test_processes_nap_on_the_cpu_build_alone(monkeypatch: pytest.MonkeyPatch, is_cpu: bool) -> None:
    monkeypatch.setattr(shm_broadcast, "SpinCondition", SpinCondition)
    monkeypatch.setattr(type(current_platform), "is_cpu", lambda _: is_cpu)
    naps.install()
    assert shm_broadcast.SpinCondition is (NappingCondition if is_cpu else SpinCondition)
