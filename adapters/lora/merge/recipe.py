"""The recipe of a merged version."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from adapters.versions import Version


class MergeMethod(StrEnum):
    """How versions are combined. All but ``linear`` combine the factors element by element, as PEFT does."""

    LINEAR = "linear"
    """The sum of what the versions add to the weights, exactly."""
    TIES = "ties"
    """The largest numbers of each, where most agree on the sign (https://arxiv.org/abs/2306.01708)."""
    DARE_LINEAR = "dare_linear"
    """Random numbers of each, scaled up for those left out (https://arxiv.org/abs/2311.03099)."""
    DARE_TIES = "dare_ties"
    """DARE's random dropping followed by TIES' sign election."""

    @property
    def is_random(self) -> bool:
        """Whether the result depends on a seed."""
        return self in {MergeMethod.DARE_LINEAR, MergeMethod.DARE_TIES}


@dataclass(frozen=True, slots=True)
class Ingredient:
    """A version and its weight; a weight below 0 subtracts its effect."""

    version: Version
    weight: float


@dataclass(frozen=True, slots=True)
class MergeRecipe:
    """The versions to merge, and how. As ``str`` it is the merged version's origin."""

    ingredients: tuple[Ingredient, ...]
    """Versions for the same base model, at least one with a weight other than 0."""
    method: MergeMethod = MergeMethod.LINEAR
    density: float | None = None
    """For all but ``linear``: the share of a factor's numbers that is kept, above 0 and at most 1."""
    seed: int | None = None
    """For the random methods: which numbers are kept."""
    compress_to: int | None = None
    """The rank to cut the merged version at, where it has more; the best approximation of that rank."""

    def __str__(self) -> str:
        parts = [f"{each.version.name}*{_shortest(each.weight)}" for each in self.ingredients]
        options = {"density": self.density, "seed": self.seed, "compress_to": self.compress_to}
        parts += [f"{name}={_shortest(value)}" for name, value in options.items() if value is not None]
        return f"merge:{self.method}({', '.join(parts)})"

    def to_json(self) -> dict[str, Any]:
        """Return the recipe as JSON values, each version with its digest."""
        return {
            "method": str(self.method),
            "versions": [
                {"version": each.version.name, "digest": each.version.digest, "weight": each.weight}
                for each in self.ingredients
            ],
            "density": self.density,
            "seed": self.seed,
            "compress_to": self.compress_to,
        }


def _shortest(number: float) -> str:
    return repr(number).removesuffix(".0")
