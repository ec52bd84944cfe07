"""Compares what two LoRAs add to the base model's weights, without forming a matrix of a weight's size.

``compare`` does it in a child process with limits, which is this module too.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from adapters.errors import AdapterTooCostly
from adapters.lora.factors import Doubles, Factors, Spectrum
from adapters.lora.stored_lora import StoredLora
from adapters.processes import line_process
from adapters.processes.limits import LimitExceeded, ResourceLimits

_LAYER = re.compile(r"(?:.+\.)?\d+(?=\.)")


@dataclass(frozen=True, slots=True)
class Comparison:
    """Measures of what a and b add to the same weights, as squares that add up over modules. Frobenius norms."""

    squared_a: float
    squared_b: float
    squared_distance: float
    inner: float
    """The inner product of both, each taken as one long vector."""
    output_overlap: float | None
    """How much the output spaces of both coincide: |Uaᵀ Ub|² / the smaller rank, for orthonormal bases of the
    column spaces of B. 1: one lies in the other; 0: orthogonal. Over many modules the mean; None: none is in both."""
    input_overlap: float | None
    """The same of the input spaces: the row spaces of A."""

    @classmethod
    def together(cls, parts: Sequence[Self]) -> Self:
        """Return the comparison of all weights of ``parts`` as one."""
        return cls(
            sum(part.squared_a for part in parts),
            sum(part.squared_b for part in parts),
            sum(part.squared_distance for part in parts),
            sum(part.inner for part in parts),
            _mean(part.output_overlap for part in parts),
            _mean(part.input_overlap for part in parts),
        )

    @property
    def relative_distance(self) -> float:
        """The norm of the difference by the larger of both norms: 0 where they are the same, 2 where opposite."""
        larger = math.sqrt(max(self.squared_a, self.squared_b))
        return math.sqrt(self.squared_distance) / larger if larger else 0.0

    @property
    def cosine(self) -> float | None:
        """The cosine of the angle between both; None where one of them is 0."""
        norms = math.sqrt(self.squared_a) * math.sqrt(self.squared_b)
        return min(1.0, max(-1.0, self.inner / norms)) if norms else None

    def to_json(self) -> dict[str, Any]:
        return {
            "norm_a": math.sqrt(self.squared_a),
            "norm_b": math.sqrt(self.squared_b),
            "distance": math.sqrt(self.squared_distance),
            "relative_distance": self.relative_distance,
            "cosine": self.cosine,
            "output_overlap": self.output_overlap,
            "input_overlap": self.input_overlap,
        }


@dataclass(frozen=True, slots=True)
class Diff:
    """Two LoRAs compared, module by module."""

    modules: Mapping[str, Comparison]

    @classmethod
    def of(cls, a: StoredLora, b: StoredLora) -> Self:
        """Compare two LoRAs for the same base model.

        Raises:
            OSError: a file cannot be read.
        """
        return cls({module: _compare(a, b, module) for module in sorted({*a.shapes, *b.shapes})})

    @property
    def total(self) -> Comparison:
        return Comparison.together(list(self.modules.values()))

    @property
    def layers(self) -> Mapping[str, Comparison]:
        """The modules of a layer as one, by its path (``model.layers.3``); a module outside of layers by its own."""
        grouped: defaultdict[str, list[Comparison]] = defaultdict(list)
        for module, comparison in self.modules.items():
            found = _LAYER.match(module)
            grouped[found[0] if found else module].append(comparison)
        return {layer: Comparison.together(parts) for layer, parts in grouped.items()}

    def to_json(self) -> dict[str, Any]:
        """Return totals, layers and modules as JSON values, the biggest differences first."""
        return {
            "total": self.total.to_json(),
            "layers": _sorted("layer", self.layers),
            "modules": _sorted("module", self.modules),
        }


async def compare(a: Path, b: Path, limits: ResourceLimits) -> dict[str, Any]:
    """Return the JSON of the ``Diff`` of the LoRAs in two directories.

    Raises:
        AdapterTooCostly: it takes more than ``limits``.
        OSError: a file cannot be read.
    """
    try:
        return await line_process.run(__name__, {"a": str(a), "b": str(b)}, threads=1, limits=limits)
    except LimitExceeded as exceeded:
        raise AdapterTooCostly(
            f"the comparison took more than {exceeded}: give the server more (--max-compile-bytes, --max-compile-s)"
        ) from None


def _compare(a: StoredLora, b: StoredLora, module: str) -> Comparison:
    if module not in a.shapes or module not in b.shapes:
        squared = Spectrum.of(_scaled(a if module in a.shapes else b, module)).norm ** 2
        return Comparison(*((squared, 0.0) if module in a.shapes else (0.0, squared)), squared, 0.0, None, None)
    factors_a, factors_b = _scaled(a, module), _scaled(b, module)
    one, other = Spectrum.of(factors_a).cleaned(), Spectrum.of(factors_b).cleaned()
    outputs, inputs = one.left.T @ other.left, one.right @ other.right.T
    inner = float(one.values @ (outputs * inputs) @ other.values)
    distance = Spectrum.of(factors_a.minus(factors_b)).norm
    return Comparison(one.norm**2, other.norm**2, distance**2, inner, _overlap(outputs), _overlap(inputs))


def _scaled(lora: StoredLora, module: str) -> Factors:
    """Return the factors of ``module`` in float64, the scale in ``b``."""
    factors = lora.read(module)
    return Factors(factors.b.astype(np.float64) * lora.scale(module), factors.a.astype(np.float64))


def _overlap(between: Doubles) -> float | None:
    smaller = min(between.shape)
    return min(1.0, float(np.sum(between**2)) / smaller) if smaller else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _sorted(noun: str, compared: Mapping[str, Comparison]) -> list[dict[str, Any]]:
    biggest_first = sorted(compared.items(), key=lambda each: each[1].squared_distance, reverse=True)
    return [{noun: name, **comparison.to_json()} for name, comparison in biggest_first]


if __name__ == "__main__":
    line_process.serve_lines(lambda asked: Diff.of(*(StoredLora.open(Path(asked[name])) for name in "ab")).to_json())
