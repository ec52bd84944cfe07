"""The predict_variables variables of a worker are those that vLLM sets."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
from vllm.platforms import current_platform
from vllm.utils.ompmultiprocessing import OMPProcessManager

from server.engine.vllm.cpu.thread_binding import VARIABLES, predict_variables


def set_by_vllm(monkeypatch: pytest.MonkeyPatch, preloaded: str, **variables: str) -> dict[str, str]:
    """Return the variables as they are where vLLM starts its only worker."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in {"LD_PRELOAD": preloaded, **variables}.items():
        monkeypatch.setenv(name, value)
    parallel = SimpleNamespace(local_world_size=1, data_parallel_rank_local=None, _api_process_count=1)
    manager = OMPProcessManager(SimpleNamespace(parallel_config=parallel, kv_transfer_config=None))
    with manager.configure_omp_envs(rank=0, local_rank=0):
        return {name: os.environ[name] for name in VARIABLES if name in os.environ}


@pytest.mark.parametrize(
    "operator",
    [{}, {"VLLM_CPU_OMP_THREADS_BIND": "0"}, {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}],
    ids=["automatic", "listed", "unbound"],
)
def test_the_fork_server_is_started_with_what_vllm_will_set(
    operator: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert current_platform.is_cpu()
    predicted = predict_variables(operator)
    assert predicted == set_by_vllm(monkeypatch, predicted["LD_PRELOAD"], **operator)


def test_another_openmp_runtime_is_left_to_vllm() -> None:
    assert predict_variables({"LD_PRELOAD": "/usr/lib/libiomp5.so"}) == {}


def test_a_list_that_is_none_is_left_to_vllm() -> None:
    assert predict_variables({"VLLM_CPU_OMP_THREADS_BIND": "0-1|2-3"}) == {}
