"""A run's curves, read from its events: thinned for the report, whole in ``metrics.csv``, drawn in ``loss.png``.

Read from events and not from the Trainer's memory, so that a run that died and went on has whole curves.
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from trainer.run_directory import RunEvent

COLUMNS: Final = (
    "step",
    "epoch",
    "learning_rate",
    "train_loss",
    "train_mean_token_accuracy",
    "train_preference_accuracy",
    "train_reward_margin",
    "train_mean_reward",
    "train_reward_deviation",
    "mean_completion_tokens",
    "truncated_share",
    "equal_rewards_share",
    "graded_share",
    "divergence",
    "sampling_difference",
    "gradient_norm",
    "tokens_per_second",
    "full_valid_loss",
    "full_valid_mean_token_accuracy",
    "valid_preference_accuracy",
    "valid_reward_margin",
    "full_valid_mean_reward",
)
"""Of ``metrics.csv``, as far as the method has them."""
MOST_POINTS: Final = 200
"""In a curve of the report."""

Curve = Sequence[tuple[int, float]]
"""(step, value), in the order of steps."""


def curves(events: Iterable[RunEvent]) -> Mapping[str, Curve]:
    """Return the curve of every metric in the events, in the order of ``COLUMNS``."""
    points: dict[str, dict[int, float]] = {name: {} for name in COLUMNS[1:]}
    for event in events:
        if event.type == "metrics":
            for name in points.keys() & event.data.keys():
                points[name][event.data["step"]] = event.data[name]
    return {name: sorted(curve.items()) for name, curve in points.items() if curve}


def thinned(drawn: Mapping[str, Curve]) -> Mapping[str, Curve]:
    """Return ``MOST_POINTS`` points at most of each curve, evenly spaced, to six digits; first and last are kept."""
    return {name: [(step, float(f"{value:.6g}")) for step, value in _kept(curve)] for name, curve in drawn.items()}


def _kept(curve: Curve) -> Curve:
    if len(curve) <= MOST_POINTS:
        return curve
    return [curve[round(place * (len(curve) - 1) / (MOST_POINTS - 1))] for place in range(MOST_POINTS)]


def table(drawn: Mapping[str, Curve]) -> str:
    """Return the curves as CSV: one row a step; where a metric has no value at a step, its cell is empty."""
    values = {name: dict(curve) for name, curve in drawn.items()}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([COLUMNS[0], *values])
    for step in sorted(set().union(*values.values())):
        writer.writerow([step, *(points.get(step, "") for points in values.values())])
    return text.getvalue()
