"""``python -m adapters.compile SOURCE OUT --base DIR --max-rank N [--compress-to R]``.

Prints one JSON document, the report or ``{"faults": [...]}``. Ends with 0: compiled, 2: refused, 3: out of memory.
"""

import argparse
import json
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Final

import torch

from adapters.compile.compiler import CompileBounds, compile_directory
from adapters.compile.weights import BaseWeights
from adapters.errors import MAX_FAULTS, AdapterRefused
from adapters.processes.limits import is_out_of_memory

COMPILED: Final = 0
REFUSED: Final = 2
OUT_OF_MEMORY: Final = 3


def main() -> int:
    """Run the program; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m adapters.compile", description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--max-rank", type=int, required=True)
    parser.add_argument("--compress-to", type=int)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # sums in one order: equal adapters become equal bytes; and the engine needs the cores
    bounds = CompileBounds(arguments.max_rank, arguments.compress_to)
    try:
        with redirect_stdout(sys.stderr):
            report = compile_directory(arguments.source, arguments.out, BaseWeights(arguments.base), bounds)
        status, answer = COMPILED, report.to_json()
    except AdapterRefused as refused:
        faults = [asdict(fault) for fault in islice(refused.faults, MAX_FAULTS)]
        status, answer = REFUSED, {"faults": faults}
    except (MemoryError, OSError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return OUT_OF_MEMORY
    json.dump(answer, sys.stdout)
    return status


if __name__ == "__main__":
    sys.exit(main())
