"""Chooses the sizes of slots, KV cache and context from the memory that is free, where no flag sets them.

vLLM claims a share of all memory (``--gpu-memory-utilization``, 0.92) and ends where less than that share is free: on
any computer that is used for other things too.
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import structlog

from adapters.base_model import BaseModel
from server.engine.protocol import StartRefused
from server.memory_limit import free_memory
from server.slot_plan import NUMBER_BYTES, Shapes

log = structlog.get_logger(__name__)

WORKSPACE: Final = 3 * 2**29
"""Bytes that a worker takes beside weights, slots and KV cache: libraries, activations."""
CUDA_CONTEXT: Final = 2**30
"""Bytes of a GPU that a worker's CUDA context and communication take before vLLM looks at what is free."""
KV_SHARE: Final = 0.5
"""The KV cache's share of what is free on a CPU; the rest is for residents, training and other programs."""
MOST_KV_SHARE: Final = 0.8
"""Its share where one request of full length would not fit otherwise."""
MOST_REQUESTS: Final = 256
"""A KV cache that holds more requests of full length gains nothing."""
SLOT_SHARE: Final = 0.1
"""Slots take at most this share of what is free, beyond one slot."""
LEAST_KV: Final = 64 * 2**20
_AUTO_LENGTH: Final = -1
"""vLLM's ``--max-model-len auto``: the context of the base model, or as much of it as fits in the KV cache."""


@dataclass(frozen=True, slots=True)
class BaseSizes:
    """What of a base model takes memory."""

    weights: int
    """Bytes of its weights' files."""
    shapes: Shapes | None
    """None: its config does not have the numbers that are needed."""
    context: int | None
    """Tokens of its longest request; None: not in its config."""

    @classmethod
    def of(cls, base: BaseModel, directory: Path) -> Self:
        """Read the sizes of ``base``, whose files are in ``directory``."""
        config = json.loads((directory / "config.json").read_text())
        files = list(directory.glob("*.safetensors")) or list(directory.glob("*.bin"))
        weights = sum(path.stat().st_size for path in files)
        return cls(weights, _shapes(base, config), _context(config.get("text_config", config)))

    def slots(self, count: int, rank: int) -> int:
        """Return the bytes of ``count`` slots."""
        return 0 if self.shapes is None else count * self.shapes.slot_bytes(rank)

    @property
    def least_weights(self) -> int:
        """Bytes that the weights take at least: files in 32 bits are served in 16."""
        return self.weights if self.shapes is None else min(self.weights, self.shapes.weights * NUMBER_BYTES)

    @property
    def longest_request(self) -> int:
        """Bytes of KV cache that a request of full length takes; 0: unknown."""
        if self.shapes is None or self.context is None:
            return 0
        return self.context * self.shapes.kv_numbers * NUMBER_BYTES


def choose_sizes(args: Namespace, sizes: BaseSizes) -> None:
    """Set those of vLLM's ``args`` that no flag has set (``args.undecided``).

    Raises:
        StartRefused: the base model does not fit into the memory that is free.
    """
    from vllm.platforms import current_platform

    if "max_model_len" in args.undecided:
        args.max_model_len = _AUTO_LENGTH
    if args.undecided >= {"gpu_memory_utilization", "kv_cache_memory_bytes"}:
        if current_platform.is_cpu():
            _choose_on_cpu(args, sizes, min(free_memory(), _free_for_vllm()))
        elif current_platform.is_cuda():
            _choose_on_gpu(args, _free_on_gpus(args.tensor_parallel_size * args.pipeline_parallel_size))


def _choose_on_cpu(args: Namespace, sizes: BaseSizes, free: int) -> None:
    """Set the KV cache and the slots for ``free`` bytes of memory."""
    if sizes.least_weights > free and args.quantization is None and args.load_format != "dummy":
        raise StartRefused(
            f"the base model's weights take {_gb(sizes.least_weights)} and {_gb(free)} of memory are free: end other "
            "programs, serve a smaller base, or set --kv-cache-memory-bytes to start all the same"
        )
    workers = args.tensor_parallel_size * args.pipeline_parallel_size
    rest = free - sizes.weights - workers * WORKSPACE
    if "max_loras" in args.undecided:
        while args.max_loras > 1 and sizes.slots(args.max_loras, args.max_lora_rank) > SLOT_SHARE * max(rest, 0):
            args.max_loras //= 2
    rest -= sizes.slots(args.max_loras, args.max_lora_rank)
    share = KV_SHARE * rest
    if share < sizes.longest_request <= MOST_KV_SHARE * rest:
        share = sizes.longest_request
    if sizes.longest_request:
        share = min(share, MOST_REQUESTS * sizes.longest_request)
    args.kv_cache_memory_bytes = max(LEAST_KV, int(share)) // workers // 2**20 * 2**20
    log.info(
        "memory",
        free=_gb(free),
        weights=_gb(sizes.weights),
        slots=f"{args.max_loras} of rank {args.max_lora_rank}",
        kv_cache=_gb(args.kv_cache_memory_bytes * workers),
    )


def _choose_on_gpu(args: Namespace, gpus: list[tuple[int, int]]) -> None:
    """Lower vLLM's share of a GPU's memory where less is free; ``gpus`` are the free and all bytes of each."""
    share = min([args.gpu_memory_utilization, *((free - CUDA_CONTEXT) / total for free, total in gpus)])
    if share < args.gpu_memory_utilization:
        args.gpu_memory_utilization = max(0.01, int(share * 100) / 100)
        free, total = min(gpus)
        log.info("memory", gpu_free=_gb(free), gpu=_gb(total), gpu_memory_utilization=args.gpu_memory_utilization)


def _free_for_vllm() -> int:
    """Return the bytes that vLLM's CPU worker will find free: it ends where the KV cache would take more."""
    from vllm.utils.cpu_resource_utils import get_allowed_cpu_list, get_memory_node_info

    return int(get_memory_node_info(get_allowed_cpu_list()[0].numa_node).available_memory)


def _free_on_gpus(workers: int) -> list[tuple[int, int]]:
    """Return free and all bytes of the GPUs of ``workers`` on this machine, from the driver, without CUDA."""
    from vllm.platforms import current_platform
    from vllm.utils.import_utils import import_pynvml

    nvml, found = import_pynvml(), []
    with suppress(nvml.NVMLError):  # a driver that does not tell leaves vLLM's own share
        nvml.nvmlInit()
        for number in range(min(workers, current_platform.device_count())):
            index = current_platform.visible_device_id_to_physical_device_id(number)
            memory = nvml.nvmlDeviceGetMemoryInfo(nvml.nvmlDeviceGetHandleByIndex(index))
            found.append((int(memory.free), int(memory.total)))
        nvml.nvmlShutdown()
    return found


def _shapes(base: BaseModel, config: Mapping[str, Any]) -> Shapes | None:
    try:
        return Shapes.of(base, config)
    except (KeyError, TypeError, ZeroDivisionError):
        return None


def _context(config: Mapping[str, Any]) -> int | None:
    length = config.get("max_position_embeddings")
    return length if isinstance(length, int) else None


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
