"""Which of vLLM's processes nap while they wait for another one."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable

import pytest
from vllm.distributed.device_communicators import shm_broadcast
from vllm.platforms import current_platform

from server.engine.vllm.cpu import idle_sleep


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], bool]:
    """Tell whether a process of that name waits otherwise than vLLM made it."""
    before = shm_broadcast.sched_yield
    monkeypatch.setattr(shm_broadcast, "sched_yield", before)  # restored at the end

    def otherwise(name: str) -> bool:
        shm_broadcast.sched_yield = before
        monkeypatch.setattr(multiprocessing.current_process(), "name", name)
        idle_sleep.install()
        return shm_broadcast.sched_yield is not before

    return otherwise


@pytest.mark.parametrize("name", ["EngineCore", "EngineCore_DP0"])
def test_a_naps(waits: Callable[[str], bool], name: str) -> None:
    assert waits(name)


@pytest.mark.parametrize("name", ["VllmWorker-0", "MainProcess"])
def test_a_worker_and_the_server_wait_as_vllm_made_them(waits: Callable[[str], bool], name: str) -> None:
    assert not waits(name)


def test_a_core_beside_an_accelerator_waits_as_vllm_made_it(
    waits: Callable[[str], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(current_platform), "is_cpu", lambda _: False)
    assert not waits("EngineCore")
