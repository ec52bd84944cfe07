"""The patterns of module names by which a config gives ranks and alphas, matched as PEFT matches them.

Python's ``re`` may need hours for a pattern of an upload. A simple pattern cannot take long and is matched here; any
other, such as one with groups, is matched with all modules at once in a child process with limits.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from adapters.lora.module_pattern import matching

MAX_PATTERNS: Final = 2048
MAX_COSTLY_PATTERNS: Final = 32
"""Patterns with a repetition, or that are not simple."""
MAX_SIMPLE_LENGTH: Final = 256
_MAX_REPETITIONS: Final = 2
_SIMPLE: Final = re.compile(r"\^?(?:[A-Za-z0-9_.|-]|\\[.d]|\[[0-9A-Za-z-]+\]|[*+?])+\$?")


@lru_cache(2 * MAX_PATTERNS)
def is_simple(pattern: str) -> bool:
    """Whether ``pattern`` has no groups, at most two of '*', '+' and '?', and plain characters otherwise."""
    if len(pattern) > MAX_SIMPLE_LENGTH or not _SIMPLE.fullmatch(pattern) or _repetitions(pattern) > _MAX_REPETITIONS:
        return False
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


def is_costly(pattern: str) -> bool:
    """Whether there may be few such patterns only."""
    return _repetitions(pattern) > 0 or not is_simple(pattern)


def matches(pattern: str, module: str) -> bool:
    """Whether the simple ``pattern`` means ``module``."""
    return _compiled(pattern).match(module) is not None


def modules_of(pattern: str, modules: Iterable[str]) -> frozenset[str]:
    """Return the ``modules`` that ``pattern``, which may not be simple, means. Blocks.

    Raises:
        ValueError: it does not compile, or takes too long; the message says what is needed instead.
    """
    return matching(_as_in_peft(pattern), modules, is_whole=False)


def _repetitions(pattern: str) -> int:
    return sum(pattern.count(sign) for sign in "*+?")


def _as_in_peft(pattern: str) -> str:
    return rf"(.*\.)?({pattern})$"  # PEFT's get_pattern_key and vLLM's _match_pattern, to the letter


@lru_cache(2 * MAX_PATTERNS)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(_as_in_peft(pattern))
