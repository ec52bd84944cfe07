"""Predicts how vLLM's CPU worker will bind its threads, before anything of vLLM is imported.

libgomp reads its variables once, when it is loaded, and a forked process keeps what was read. So the fork server must
be started with the variables that vLLM will set for the worker. The prediction is compared with what vLLM sets in the
end: a wrong one only makes the start slower.
"""

import os
import platform
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

VARIABLES = (
    "LD_PRELOAD",
    *("OMP_NUM_THREADS", "OMP_PLACES", "OMP_PROC_BIND", "GOMP_CPU_AFFINITY"),
    *("KMP_AFFINITY", "KMP_BLOCKTIME", "KMP_TPAUSE"),
)
"""What vLLM sets for the OpenMP runtime of a worker."""

_CPUS = Path("/sys/devices/system/cpu")


def predict_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that vLLM will set for its only worker; empty where they cannot be predicted."""
    libraries = _preloaded_libraries(environment.get("LD_PRELOAD", ""))
    if libraries is None:
        return {}
    bound = environment.get("VLLM_CPU_OMP_THREADS_BIND", "auto")
    if bound == "nobind":
        return {"LD_PRELOAD": libraries}
    try:
        cpus = _automatic_cpus(environment) if bound == "auto" else _parse_cpus(bound)
    except (OSError, ValueError):
        return {}
    affinity = " ".join(map(str, cpus))
    return {"LD_PRELOAD": libraries, "OMP_NUM_THREADS": str(len(cpus)), "GOMP_CPU_AFFINITY": affinity}


def _preloaded_libraries(before: str) -> str | None:
    """Return vLLM's LD_PRELOAD: its allocator, and the libgomp of torch; None for another OpenMP runtime."""
    packages = [Path(spec.origin).parent for name in ("torch", "vllm") if (spec := find_spec(name)) and spec.origin]
    if len(packages) < 2 or any(runtime in before for runtime in ("libomp", "libiomp", "libgomp")):
        return None
    torch, vllm = packages
    gomp = [*torch.parent.glob("torch.libs/libgomp*.so*"), *torch.glob("lib/libgomp*.so*")]
    malloc = [*vllm.glob("libs/libtcmalloc_minimal*.so*"), *vllm.glob("libs/libtcmalloc.so*")]
    return ":".join(filter(None, [*map(str, malloc[:1]), before, *map(str, gomp[:1])]))


def _automatic_cpus(environment: Mapping[str, str]) -> list[int]:
    """Return one CPU a core (the last of its threads; on ARM each) of the first memory node, less the reserved ones."""
    status = Path("/proc/self/status").read_text()
    nodes = next(line for line in status.splitlines() if line.startswith("Mems_allowed_list:"))
    node = _parse_cpus(nodes.partition(":")[2].strip())[0]
    allowed = [cpu for cpu in sorted(os.sched_getaffinity(0)) if _node(cpu) == node]
    if platform.machine() == "x86_64":
        siblings = {(_CPUS / f"cpu{cpu}/topology/thread_siblings_list").read_text(): cpu for cpu in allowed}
        allowed = sorted(siblings.values())
    reserved = int(environment.get("VLLM_CPU_NUM_OF_RESERVED_CPU") or 1)
    return allowed[: len(allowed) - reserved] if len(allowed) > reserved else allowed


def _node(cpu: int) -> int:
    nodes = list((_CPUS / f"cpu{cpu}").glob("node[0-9]*"))
    return int(nodes[0].name.removeprefix("node")) if nodes else 0


def _parse_cpus(text: str) -> list[int]:
    """Return the numbers in a list such as ``0-2,5``."""
    numbers: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        numbers.update(range(int(first), int(last or first) + 1))
    return sorted(numbers)
