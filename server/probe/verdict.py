"""Judges a probe's scores. Pure functions: numbers in, numbers or faults out.

A score is the natural log-probability of one token of a prompt, given the tokens before it; ``Scores`` has one list of
scores for each prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final

from adapters.errors import AdapterRefused, Fault

Scores = Sequence[Sequence[float]]

WHERE: Final = "probe"
"""The place of faults that no file shows."""

TOLERANCE: Final = 5.0
SLACK: Final = 0.01
"""An adapter agrees with PEFT when its mean distance to it is at most TOLERANCE × that of the base model + SLACK.

The base model's own distance comes from the engine's dtype; an adapter adds little to it. In bf16: on
the embedded base (floor 0.021) trained adapters 0.020 to 0.023, rsLoRA 0.021, a trained one times four 0.031, times ten
0.066; on a base of 104 M parameters (floor 0.0014) plain 0.0021, patterns of ranks and alphas 0.0056, rsLoRA 0.0117.
One served with an alpha of 16 in place of 18 is at 0.29, in place of 32 at 2.2, with another adapter's weights at 1.7.
"""


@dataclass(frozen=True, slots=True)
class Distance:
    """The distance between two scorings of the same tokens: |Δ log-probability|, mean and maximum."""

    mean: float
    max: float

    @classmethod
    def between(cls, scores: Scores, others: Scores) -> Distance:
        differences = [
            abs(score - other)
            for row, other_row in zip(scores, others, strict=True)
            for score, other in zip(row, other_row, strict=True)
        ]
        return cls(sum(differences) / len(differences), max(differences))

    def to_json(self) -> dict[str, float]:
        return {"mean": round(self.mean, 6), "max": round(self.max, 6)}


@dataclass(frozen=True, slots=True)
class ReferenceScores:
    """The scores that PEFT computes in float32 for the same prompts, under the base model and under the adapter."""

    base: Scores
    adapter: Scores


def judge(scores: Scores, base: Scores, *, allow_inert: bool) -> dict[str, Any]:
    """Return the part of a version's report on its ``scores`` against those of the base model.

    Raises:
        AdapterRefused: the scores are not finite, or equal the base model's and ``allow_inert`` is False.
    """
    counted = sum(map(len, scores))
    _check_arithmetic(scores, base, counted)
    effect = Distance.between(scores, base)
    is_inert = effect.max == 0
    if is_inert and not allow_inert:
        found = f"the base model's own scores on all {counted} tokens"
        needed = (
            "an adapter that changes something: train longer or with a higher learning rate; publish with "
            "allow_inert=true (--allow-inert) if this is meant"
        )
        raise AdapterRefused([Fault(WHERE, found, needed)])
    notes = ["inert: it scores every token of the probe as the base model does"] if is_inert else []
    return {"prompts": len(scores), "tokens": counted, "effect": effect.to_json(), "notes": notes}


def compare(scores: Scores, base: Scores, reference: ReferenceScores) -> dict[str, Any]:
    """Return the part of a version's report on the engine's ``scores`` against PEFT's ``reference``.

    Raises:
        AdapterRefused: the engine's scores differ from PEFT's by more than the tolerance.
    """
    floor, deviation = Distance.between(base, reference.base), Distance.between(scores, reference.adapter)
    limit = TOLERANCE * floor.mean + SLACK
    if not deviation.mean <= limit:
        found = (
            f"an adapter served otherwise than PEFT computes it: log-probabilities differ by {deviation.mean:.4f} in "
            f"the mean, {deviation.max:.2f} at most; those of the base model by {floor.mean:.4f}"
        )
        raise AdapterRefused([Fault(WHERE, found, f"a mean difference of at most {limit:.4f}: save it as plain LoRA")])
    return {"floor": floor.to_json(), "deviation": deviation.to_json(), "limit": round(limit, 6)}


def _check_arithmetic(scores: Scores, base: Scores, counted: int) -> None:
    """Refuse scores that are not finite, or the same for every token: both are left by an overflow."""
    flat = [score for prompt in scores for score in prompt]
    missing = sum(map(len, base)) - counted
    if broken := sum(not isfinite(score) for score in flat) + missing:
        found = f"no finite log-probability for {broken} of {counted + missing} tokens"
    elif len(set(flat)) == 1 < counted:
        found = f"the same log-probability, {flat[0]:.4f}, for all {counted} tokens"
    else:
        return
    needed = "finite activations: lower lora_alpha, or train again with a lower learning rate; this run diverged"
    raise AdapterRefused([Fault(WHERE, f"{found}: the engine's sums overflow", needed)])
