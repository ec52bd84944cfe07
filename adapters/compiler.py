"""Runs the adapter compiler as a child process, so that no upload can run us out of memory or stall us."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from adapters import confinement
from adapters.compile.report import CompileReport
from adapters.confinement import Allowance, Ended, TookTooMuch
from adapters.errors import AdapterRefused, AdapterTooCostly, CompilerDied, Fault
from adapters.exit_status import COMPILED, OUT_OF_MEMORY, REFUSED


async def compile_adapter(
    source: Path, out: Path, *, base: Path, max_rank: int, compress_to: int | None, allowance: Allowance
) -> CompileReport:
    """Compile the adapter in ``source`` for the base model in ``base`` and write the canonical files to ``out``.

    ``compress_to``: cut at this rank, whatever is lost (None: refuse what loses more than its kind may). What ``out``
    holds after an error is no adapter: remove it.

    Raises:
        AdapterRefused: with every fault found.
        AdapterTooCostly: it took more than ``allowance``.
        CompilerDied: the child ended without an answer.
    """
    arguments = [str(source), str(out), "--base", str(base), "--max-rank", str(max_rank)]
    if compress_to is not None:
        arguments += ["--compress-to", str(compress_to)]
    try:
        ended = await confinement.run("-m", "adapters.compile", *arguments, allowance=allowance)
    except TookTooMuch as exceeded:
        raise _too_costly(str(exceeded)) from None
    return _answer(ended, allowance)


def _answer(ended: Ended, allowance: Allowance) -> CompileReport:
    if ended.status == OUT_OF_MEMORY:
        raise _too_costly(f"{allowance.memory_bytes >> 20} MiB of memory")
    if ended.status in {COMPILED, REFUSED}:
        with suppress(ValueError, TypeError, KeyError):
            answer: dict[str, Any] = json.loads(ended.said)
            if ended.status == COMPILED:
                return CompileReport.from_json(answer)
            raise AdapterRefused([Fault(**fault) for fault in answer["faults"]])
    raise CompilerDied(f"the adapter compiler died with status {ended.status}", log=ended.log)


def _too_costly(what: str) -> AdapterTooCostly:
    return AdapterTooCostly(
        f"compiling this adapter took more than {what}: send plain LoRA, which takes little, or convert it yourself "
        "with `python -m adapters.compile`"
    )
