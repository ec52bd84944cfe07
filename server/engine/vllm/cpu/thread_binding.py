"""Where vLLM's CPU worker will bind its threads, told from outside, before anything of vLLM is imported.

libgomp reads its variables once, when it is loaded, and a process that is forked later keeps what was read. So a
template for workers must be started with the variables that vLLM will set around the worker's start. This file predicts
them; the prediction is compared with what vLLM sets in the end, and only decides how fast the start is.
"""

from __future__ import annotations

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


def predicted(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that vLLM will set for its only worker; empty where that cannot be told."""
    preloaded = _preloaded(environment.get("LD_PRELOAD", ""))
    if preloaded is None:
        return {}
    bound = environment.get("VLLM_CPU_OMP_THREADS_BIND", "auto")
    if bound == "nobind":
        return {"LD_PRELOAD": preloaded}
    try:
        cpus = _automatic(environment) if bound == "auto" else _listed(bound)
    except (OSError, ValueError):
        return {}
    affinity = " ".join(map(str, cpus))
    return {"LD_PRELOAD": preloaded, "OMP_NUM_THREADS": str(len(cpus)), "GOMP_CPU_AFFINITY": affinity}


def _preloaded(before: str) -> str | None:
    """Return vLLM's LD_PRELOAD: its allocator, and the libgomp of torch; None for another OpenMP runtime."""
    if any(runtime in before for runtime in ("libomp", "libiomp", "libgomp")):
        return None
    torch, vllm = find_spec("torch"), find_spec("vllm")
    if torch is None or torch.origin is None or vllm is None or vllm.origin is None:
        return None
    beside = Path(torch.origin).parent
    gomp = [*beside.parent.glob("torch.libs/libgomp*.so*"), *beside.glob("lib/libgomp*.so*")]
    malloc = [path for form in ("minimal*.so*", ".so*") for path in _libraries(vllm.origin, form)]
    both = [*map(str, malloc[:1]), before, *map(str, gomp[:1])]
    return ":".join(filter(None, both))


def _libraries(vllm: str, form: str) -> list[Path]:
    prefix = "libtcmalloc_" if form.startswith("minimal") else "libtcmalloc"
    return list((Path(vllm).parent / "libs").glob(prefix + form))


def _automatic(environment: Mapping[str, str]) -> list[int]:
    """Return one CPU a core (the last of its threads; on ARM each) of the first memory node, less what is reserved."""
    node = _memory_nodes()[0]
    allowed = [cpu for cpu in sorted(os.sched_getaffinity(0)) if _node(cpu) == node]
    if platform.machine() == "x86_64":
        allowed = sorted({_siblings(cpu): cpu for cpu in allowed}.values())
    reserved = int(environment.get("VLLM_CPU_NUM_OF_RESERVED_CPU") or 1)
    return allowed[: len(allowed) - reserved] if len(allowed) > reserved else allowed


def _siblings(cpu: int) -> str:
    return (_CPUS / f"cpu{cpu}/topology/thread_siblings_list").read_text()


def _node(cpu: int) -> int:
    nodes = list((_CPUS / f"cpu{cpu}").glob("node[0-9]*"))
    return int(nodes[0].name.removeprefix("node")) if nodes else 0


def _memory_nodes() -> list[int]:
    status = Path("/proc/self/status").read_text()
    allowed = next(line for line in status.splitlines() if line.startswith("Mems_allowed_list:"))
    return _listed(allowed.partition(":")[2].strip())


def _listed(cpus: str) -> list[int]:
    """Return the numbers in ``0-2,5``."""
    numbers: set[int] = set()
    for part in cpus.split(","):
        first, _, last = part.partition("-")
        numbers.update(range(int(first), int(last or first) + 1))
    return sorted(numbers)
