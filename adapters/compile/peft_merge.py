"""Merges LoRAs of one rank by TIES or DARE, each factor as PEFT's ``add_weighted_adapter`` does: a child process.

A question has ``terms`` (pairs of a version's directory and its weight), ``method``, ``density``, ``seed`` and ``out``,
the directory that the result is written to in float32.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft.utils.merge_utils import dare_linear, dare_ties, ties

from adapters.lora.canonical_form import CanonicalForm, write
from adapters.lora.factors import Factors
from adapters.lora.merge.recipe import MergeMethod
from adapters.lora.stored_lora import LinearSum, StoredLora
from adapters.processes.line_process import serve_lines

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


def _merge_all(request: dict[str, Any]) -> dict[str, Any]:
    torch.set_num_threads(1)  # the engine needs the cores
    torch.manual_seed(request["seed"] or 0)
    method, density = MergeMethod(request["method"]), float(request["density"])
    terms = LinearSum.open((Path(directory), weight) for directory, weight in request["terms"])
    form = CanonicalForm(terms.shapes, max(lora.rank for lora in terms.loras), "F32", (), None)
    write(Path(request["out"]), form, lambda module: merge(terms.terms, module, method, density))
    return {}


if __name__ == "__main__":
    serve_lines(_merge_all)
