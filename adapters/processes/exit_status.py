"""How our programs that work on adapters end; anything else, and they died."""

from typing import Final

COMPILED: Final = 0
REFUSED: Final = 2
OUT_OF_MEMORY: Final = 3


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` is an allocation that failed: torch raises RuntimeError for its own, and for maps of files."""
    said = str(error)
    return isinstance(error, MemoryError) or "DefaultCPUAllocator" in said or "Cannot allocate memory" in said
