"""The child process of ``adapters.compile.adapter_compiler``: loads torch and PEFT once, forks for each upload."""

import os
from pathlib import Path
from typing import Any

import torch

from adapters.compile import skeleton
from adapters.compile.compiler import CompileBounds, compile_directory
from adapters.compile.weights import BaseWeights
from adapters.processes.answers import Work
from adapters.processes.child import NICENESS
from adapters.processes.fork_pool import serve_forks


def prepare(_: dict[str, Any]) -> Work:
    assert skeleton  # PEFT takes ten seconds to import: once
    torch.set_num_threads(1)  # sums in one order: equal adapters become equal bytes; and the engine needs the cores
    return _compiled


def _compiled(question: dict[str, Any]) -> dict[str, Any]:
    os.nice(NICENESS)  # requests come first
    bounds = CompileBounds(question["max_rank"], question["compress_to"])
    base = BaseWeights(Path(question["base"]))
    return compile_directory(Path(question["source"]), Path(question["out"]), base, bounds).to_json()


if __name__ == "__main__":
    serve_forks(prepare)
