"""Comparisons of two versions in requests and responses."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from server.http.schemas.body import Body
from server.http.schemas.response import ResponseObject


class DiffBody(Body):
    """Body of a comparison."""

    a: str = Field(examples=["sql@1"])
    b: str = Field(examples=["sql@2"])


class WeightDiff(ResponseObject):
    """How the changes of the same weights by a and b compare: see ``adapters.lora.diff.Comparison``."""

    norm_a: float
    norm_b: float
    distance: float
    relative_distance: float
    cosine: float | None
    output_overlap: float | None
    input_overlap: float | None


class LayerDiff(WeightDiff):
    """A layer's modules compared as one."""

    layer: str


class ModuleDiff(WeightDiff):
    """A module compared."""

    module: str


class ScoreDistance(ResponseObject):
    """Distances between log-probabilities of the same tokens."""

    mean: float
    max: float


class AnswersDiff(ResponseObject):
    """How the engine's scores of the probe's prompts under a, b and the base model compare."""

    prompts: int
    tokens: int
    distance: ScoreDistance
    effect_a: ScoreDistance
    effect_b: ScoreDistance


class DiffObject(ResponseObject):
    """Two versions compared. ``answers`` is null where the engine cannot score both; ``notes`` names the reason."""

    object: Literal["adapter.diff"] = "adapter.diff"
    a: str
    b: str
    answers: AnswersDiff | None
    notes: list[str]
    total: WeightDiff
    layers: list[LayerDiff]
    modules: list[ModuleDiff]
