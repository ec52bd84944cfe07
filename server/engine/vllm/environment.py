"""The environment variables of vLLM's processes. No other file of this package reads or sets any."""

import os
from collections.abc import Mapping

from adapters.processes.child import import_variables


def prepare() -> None:
    """Set the variables that vLLM reads. Call before its first import."""
    os.environ.update(import_variables())
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    plugins = os.environ.get("VLLM_PLUGINS")
    if plugins is not None and "patchbay" not in plugins.split(","):  # a list without ours leaves vLLM unpatched
        os.environ["VLLM_PLUGINS"] = f"{plugins},patchbay".lstrip(",")
    os.environ["VLLM_COMPUTE_NANS_IN_LOGITS"] = "1"  # a sum over logits: finds the requests that an adapter broke
    os.environ["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"  # vLLM calls resolve_lora; its load routes stay unreachable


def current() -> dict[str, str]:
    return dict(os.environ)


def replace(environment: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
