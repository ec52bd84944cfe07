"""Merges in requests."""

from __future__ import annotations

from typing import Final

from pydantic import Field

from adapters.lora.merge.recipe import MergeMethod
from server.http.schemas.body import Body

MAX_INGREDIENTS: Final = 32
MAX_WEIGHT: Final = 1000.0


class IngredientBody(Body):
    """A version to merge."""

    reference: str = Field(examples=["sql@1", "json"])
    weight: float = Field(
        ge=-MAX_WEIGHT, le=MAX_WEIGHT, allow_inf_nan=False, description="Below 0: subtract its effect."
    )


class MergeBody(Body):
    """Body of a merge."""

    versions: list[IngredientBody] = Field(min_length=1, max_length=MAX_INGREDIENTS)
    method: MergeMethod = MergeMethod.LINEAR
    density: float | None = Field(None, gt=0, le=1, description="For ties and dare: the share of numbers kept.")
    seed: int | None = Field(None, ge=0, lt=2**63, description="For dare: seed of the random choice of numbers kept.")
    compress_to: int | None = Field(None, ge=1, description="The rank to cut at, where the sum has more.")
    alias: str | None = Field(None, description="Alias to point to the new version at once.")
