"""Why an engine did not start, and whether another attempt can end differently."""

import re
from typing import Final

from server.engine.vllm.process_logs import LoggedFailure

_MEMORY: Final = (
    "it needs more memory than is free: end other programs, or lower --max-model-len, --max-loras, --max-num-seqs or "
    "--kv-cache-memory-bytes (on a GPU --gpu-memory-utilization)"
)
_ADVICE: Final = (
    (r"WorkerProc initialization failed|'EngineCore\w*': -9", f"a process was killed, perhaps because {_MEMORY}"),
    (r"out of memory|OutOfMemory|can't allocate memory|[Nn]ot enough memory", _MEMORY),
    (r"[Aa]vailable memory on node|[Ff]ree memory on device|[Nn]o available memory for the cache", _MEMORY),
    (r"KV cache is needed|Cannot auto-fit max_model_len|larger than the maximum number of tokens", _MEMORY),
    (r"architectures? .* (are|is) not supported|no vLLM implementation", "choose another base model"),
    (r"trust_remote_code|trust-remote-code", "the base brings code of its own: --trust-remote-code runs it"),
    (r"No module named|ImportError|is not installed", "install what is missing, or choose flags that do without"),
    (r"does not support LoRA", "vLLM serves no adapters for this architecture: choose another base model"),
    (r"max_model_len .* greater than", "lower --max-model-len"),
)
"""Patterns of causes, and what to do; the first that matches counts."""
_PASSING: Final = re.compile(r"[Aa]ddress already in use|[Cc]onnection|[Tt]imed? ?out|Temporary failure")
_PASSING_KINDS: Final = frozenset(
    {"TimeoutError", "ConnectionError", "KeyboardInterrupt", "EOFError", "BrokenPipeError"}
)


def explain(cause: str) -> str:
    """Return ``cause`` with what to do about it, where that is known and the cause names no flag itself."""
    if " --" in cause or "`--" in cause:
        return cause
    advice = next((advice for pattern, advice in _ADVICE if re.search(pattern, cause)), None)
    return cause if advice is None else f"{cause.rstrip('.')}; {advice}"


def will_repeat(failure: LoggedFailure) -> bool:
    """Whether a first start that ended with ``failure`` would end so again: all but network and time."""
    return failure.kind not in _PASSING_KINDS and not _PASSING.search(failure.cause)
