"""vLLM's cache blocks are cleared before they are used again, so that no request meets what another one left there.

The CPU's attention reads a block to its end and weighs what lies behind a request's own tokens with zero. Zero times
NaN is NaN: once an adapter's arithmetic broke down, whoever was given its blocks next (the base model, other adapters)
answered with token 0, for good. vLLM clears new blocks itself for models whose caches need it; here every model's do.
"""

from __future__ import annotations


def install() -> None:
    """Make vLLM clear every block that it hands out. Called in each of its processes."""
    from vllm.v1.kv_cache_interface import KVCacheConfig

    KVCacheConfig.needs_kv_cache_zeroing = True
