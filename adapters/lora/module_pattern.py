"""Matches an uploaded regular expression with module names, in a child process with limits on time and memory.

PEFT takes any pattern, and Python's ``re`` may need hours for one. This file is also the child's program. It uses the
standard library only and starts with ``-I -S``, without site-packages, in some 20 ms; so it limits itself and not
through ``adapters.processes``.
"""

import json
import re
import resource
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

CPU_S: Final = 1
MEMORY_BYTES: Final = 256 << 20
WALL_S: Final = 30.0
MAX_LENGTH: Final = 8192


def matching(pattern: str, modules: Iterable[str], *, is_whole: bool = True) -> frozenset[str]:
    """Return the ``modules`` that ``pattern`` matches: in full, or (``is_whole`` False) at their beginning. Blocks.

    Raises:
        ValueError: it does not compile, or takes too long; the message says what is needed instead.
    """
    if len(pattern) > MAX_LENGTH:
        raise ValueError(f"a pattern of at most {MAX_LENGTH} characters")
    command = [sys.executable, "-I", "-S", str(Path(__file__))]
    question = json.dumps([pattern, is_whole, sorted(modules)])
    try:
        child = subprocess.run(  # noqa: S603 - this file
            command, input=question, capture_output=True, text=True, timeout=WALL_S, check=True, env={}
        )
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
        raise ValueError(
            "a pattern that is matched quickly, without repetitions inside of repetitions, or a list of module names"
        ) from None
    answer = json.loads(child.stdout)
    if isinstance(answer, str):
        raise ValueError(f"a pattern that compiles ({answer})")
    return frozenset(answer)


def main() -> None:
    """Read a pattern and modules from stdin; write the matching modules, or the error of ``re.compile``, to stdout."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    pattern, is_whole, modules = json.load(sys.stdin)
    answer: list[str] | str
    try:
        compiled = re.compile(pattern)
        match = compiled.fullmatch if is_whole else compiled.match
        answer = [module for module in modules if match(module)]
    except (re.error, OverflowError) as error:  # OverflowError: a repetition above 2**32
        answer = str(error)
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
