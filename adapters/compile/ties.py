"""``python -m adapters.compile.ties OUT REQUEST``: merges LoRAs of one rank by ties or dare, as PEFT does.

``REQUEST`` is JSON: ``terms`` (pairs of a version's directory and its weight), ``method``, ``density``, ``seed``. The
result is written to ``OUT`` in float32. What is done to each factor is what PEFT's ``add_weighted_adapter`` does.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from peft.utils.merge_utils import dare_linear, dare_ties, ties

from adapters.lora.canonical_form import Form, write
from adapters.lora.merge.recipe import MergeMethod
from adapters.lora.stored_lora import Factors, StoredLora
from adapters.processes.exit_status import COMPILED, OUT_OF_MEMORY, is_out_of_memory

_COMBINED = {MergeMethod.TIES: ties, MergeMethod.DARE_LINEAR: dare_linear, MergeMethod.DARE_TIES: dare_ties}


def merge(terms: Sequence[tuple[StoredLora, float]], module: str, method: MergeMethod, density: float) -> Factors:
    """Return the factors that ``terms`` come to in ``module``, where some of them have it. Draws random numbers."""
    present = [(lora.read(module), weight * lora.scale(module)) for lora, weight in terms if module in lora.shapes]
    root = torch.tensor([math.sqrt(abs(weight)) for _, weight in present])
    sign = torch.tensor([math.copysign(1.0, weight) for _, weight in present])
    combined = _COMBINED[method]
    a = combined([torch.from_numpy(factors.a) for factors, _ in present], root * sign, density)
    b = combined([torch.from_numpy(factors.b) for factors, _ in present], root, density)
    return Factors(b.numpy(), a.numpy())


def main() -> int:
    """Run the program; return its exit status."""
    try:
        _merge_all()
    except (MemoryError, OSError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return OUT_OF_MEMORY
    return COMPILED


def _merge_all() -> None:
    out, request = Path(sys.argv[1]), json.loads(sys.argv[2])
    torch.set_num_threads(1)  # the engine needs the cores
    torch.manual_seed(request["seed"] or 0)
    method, density = MergeMethod(request["method"]), float(request["density"])
    terms = [(StoredLora.open(Path(directory)), float(weight)) for directory, weight in request["terms"]]
    ranks = {module: shape for lora, _ in terms for module, shape in lora.shapes.items()}
    shapes = {module: (rows, columns) for module, (rows, _, columns) in ranks.items()}
    rank = max(rank for _, rank, _ in ranks.values())
    form = Form(shapes, rank, "F32", sorted(shapes), None)
    write(out, form, lambda module: merge(terms, module, method, density))


if __name__ == "__main__":
    sys.exit(main())
