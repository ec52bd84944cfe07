"""Which of vLLM's processes sleep while they wait for another one."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable

import pytest
from vllm.distributed.device_communicators import shm_broadcast
from vllm.platforms import current_platform

from server.engine.vllm import patches


@pytest.fixture
def sleeps(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], bool]:
    """Returns whether a process with that name sleeps in place of ``sched_yield``."""
    before = shm_broadcast.sched_yield
    monkeypatch.setattr(shm_broadcast, "sched_yield", before)  # restored at the end

    def sleeps(name: str) -> bool:
        shm_broadcast.sched_yield = before
        monkeypatch.setattr(multiprocessing.current_process(), "name", name)
        patches.sleep_while_idle()
        return shm_broadcast.sched_yield is not before

    return sleeps


@pytest.mark.parametrize("name", ["EngineCore", "EngineCore_DP0"])
def test_the_engine_core_sleeps(sleeps: Callable[[str], bool], name: str) -> None:
    assert sleeps(name)


@pytest.mark.parametrize("name", ["VllmWorker-0", "MainProcess"])
def test_a_worker_and_the_server_spin(sleeps: Callable[[str], bool], name: str) -> None:
    assert not sleeps(name)


def test_a_core_beside_an_accelerator_spins(sleeps: Callable[[str], bool], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(current_platform), "is_cpu", lambda _: False)
    monkeypatch.setattr(patches, "sleep_while_idle", patches.install)
    assert not sleeps("EngineCore")
