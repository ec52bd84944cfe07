"""Why an engine did not start: the cause with what to do, and whether it is worth another attempt."""

from __future__ import annotations

import pytest

from server.engine.vllm.process_logs import LoggedFailure
from server.engine.vllm.start_failure import explain, will_repeat


@pytest.mark.parametrize(
    ("cause", "advice"),
    [
        ("Available memory on node 0 (1.2/15.6 GiB) on startup is less than desired", "--kv-cache-memory-bytes"),
        ("Free memory on device cuda:0 (3/80 GiB) on startup is less than desired", "--gpu-memory-utilization"),
        ("OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB.", "--max-loras"),
        ("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory", "end other programs"),
        ("To serve at least one request, (4.38 GiB KV cache is needed, which is larger)", "--max-model-len"),
        ("Cannot auto-fit max_model_len: not enough GPU memory available", "--max-num-seqs"),
        ("No available memory for the cache blocks.", "--kv-cache-memory-bytes"),
        ("Model architectures ['FooForCausalLM'] are not supported for now.", "choose another base model"),
        ("FooForCausalLM has no vLLM implementation", "choose another base model"),
        ("FooForCausalLM does not support LoRA yet.", "vLLM serves no adapters for this architecture"),
        ("Please pass the argument `trust_remote_code=True`", "--trust-remote-code"),
        ("ModuleNotFoundError: No module named 'flash_attn'", "install what is missing"),
        ("WorkerProc initialization failed due to an exception in a background process.", "was killed"),
        ("Engine core initialization failed. Failed core proc(s): {'EngineCore': -9}", "was killed"),
    ],
)
def test_a_known_cause_comes_with_what_to_do(cause: str, advice: str) -> None:
    assert explain(cause).startswith(cause.rstrip("."))
    assert advice in explain(cause)


def test_an_unknown_cause_stays_as_it_is() -> None:
    assert explain("KeyError: 'rope_theta'") == "KeyError: 'rope_theta'"


@pytest.mark.parametrize(
    ("kind", "cause", "repeats"),
    [
        ("ValueError", "Available memory on node 0 is less than desired", True),
        ("KeyError", "'rope_theta'", True),
        ("OutOfMemoryError", "CUDA out of memory", True),
        ("RuntimeError", "The server socket has failed to listen: Address already in use", False),
        ("DistNetworkError", "Connection reset by peer", False),
        ("TimeoutError", "TimeoutError", False),
    ],
)
def test_only_what_network_and_time_may_change_is_tried_again(kind: str, cause: str, repeats: bool) -> None:
    assert will_repeat(LoggedFailure("Worker", kind, cause, "")) is repeats
