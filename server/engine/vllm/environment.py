"""The environment variables of vLLM's processes. No other file of this package reads or sets any."""

import json
import logging.config
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from adapters.processes.child import import_variables

REFUSED: Final = {
    "VLLM_API_KEY": "make API keys with `patchbay keys create`",
    "VLLM_DISABLE_REQUEST_ID_RANDOMIZATION": "two requests with one X-Request-Id would break each other",
    "VLLM_ENABLE_COHERE_API": "patchbay does not serve Cohere's routes",
    "VLLM_ENABLE_RESPONSES_API_STORE": "vLLM keeps responses without a limit, and patchbay's routes do not reach them",
    "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "patchbay's HTTP server has limits of its own",
    "VLLM_KEEP_ALIVE_ON_ENGINE_DEATH": "patchbay rebuilds a dead engine itself: see --max-engine-deaths",
    "VLLM_LORA_RESOLVER_CACHE_DIR": "patchbay loads the adapters that were published: see --source-dir",
    "VLLM_LORA_RESOLVER_HF_REPO_LIST": "patchbay loads the adapters that were published: push them from the hub",
    "VLLM_RAISE_ON_LOGIT_NANS": "one adapter's NaN would end the engine for all; patchbay quarantines that adapter",
    "VLLM_SERVER_DEV_MODE": "patchbay does not serve vLLM's development routes",
    "VLLM_SKIP_MODEL_NAME_VALIDATION": "an unknown model would be answered by the base model",
    "VLLM_USE_RUST_FRONTEND": "patchbay is the HTTP server",
}
"""Variables that would work against patchbay, or have no effect in it, and what to do instead."""

MEDIA_CONNECTOR: Final = "patchbay"
"""The name under which vLLM finds ``server.engine.vllm.media``."""
UNSET: Final = frozenset({"", "0", "false"})


def refusals(variables: Mapping[str, str]) -> list[str]:
    """Return a reason for each variable that is set and must not be."""
    wrong = (name for name in REFUSED if variables.get(name, "").lower() not in UNSET)
    return [f"unset {name}: {REFUSED[name]}" for name in wrong]


_LEAKS: Final = "ignore:resource_tracker"
"""Python's report of what a process that has failed or was ended did not free; the operating system has."""


def prepare(logging_config: Path | None = None) -> None:
    """Set the variables that vLLM reads. Call before its first import.

    Args:
        logging_config: a ``dictConfig`` for vLLM's processes, as JSON; an operator's own comes first.
    """
    if logging_config is not None:
        os.environ.setdefault("VLLM_LOGGING_CONFIG_PATH", str(logging_config))
        warnings = filter(None, (os.environ.get("PYTHONWARNINGS"), _LEAKS))
        os.environ["PYTHONWARNINGS"] = ",".join(dict.fromkeys(warnings))
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # torch's own lines have another form
    os.environ.update(import_variables())
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    path = Path(os.environ.get("VLLM_LOGGING_CONFIG_PATH", ""))
    if path.is_file():  # vLLM reads it when an engine starts, not when it is imported
        logging.config.dictConfig(json.loads(path.read_text()))
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("SAGEMAKER_CONTAINER_LOG_LEVEL", "WARNING")  # else a dependency silences the root logger
    plugins = os.environ.get("VLLM_PLUGINS")
    if plugins is not None and "patchbay" not in plugins.split(","):  # a list without ours leaves vLLM unpatched
        os.environ["VLLM_PLUGINS"] = f"{plugins},patchbay".lstrip(",")
    os.environ.setdefault("VLLM_MAX_N_SEQUENCES", "1024")  # vLLM's own is 16384; --max-n refuses before it
    os.environ.setdefault("VLLM_MEDIA_CONNECTOR", MEDIA_CONNECTOR)
    os.environ.setdefault("VLLM_MEDIA_URL_ALLOW_REDIRECTS", "0")  # a public address may redirect to a private one
    os.environ["VLLM_COMPUTE_NANS_IN_LOGITS"] = "1"  # a sum over logits: finds the requests that an adapter broke
    os.environ["VLLM_ENABLE_RESPONSES_API_STORE"] = "0"  # never emptied; server.responses stores them
    os.environ["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"  # vLLM calls resolve_lora; its load routes stay unreachable


def logging_level() -> str | None:
    """Return vLLM's log level where the operator has set one."""
    return os.environ.get("VLLM_LOGGING_LEVEL")


def current() -> dict[str, str]:
    return dict(os.environ)


def replace(environment: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
