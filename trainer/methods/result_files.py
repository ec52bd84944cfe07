"""Result files of a finished run: its metrics as CSV, and a plot of its loss that marks the best checkpoint."""

import io
import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Final

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from trainer.methods.curves import Curve, curves, table
from trainer.run_directory import LOSS_PLOT, METRICS_FILE, RunDirectory, RunResult
from trainer.run_spec import RunSpec

SIZE_INCHES: Final = (8.0, 4.5)
DOTS_PER_INCH: Final = 144
SMOOTHED_OVER: Final = 40
"""The mean is over a fortieth of the run on either side."""
LOG_FROM: Final = 20
"""Largest over smallest loss from which the axis is logarithmic."""
_BLUE, _ORANGE, _GREY, _INK = "#2f6fb3", "#d9702b", "#d6d9dd", "#33383d"


def write(run: RunDirectory) -> None:
    """Write those result files that ``run`` does not have yet; each is complete or absent. ``run`` has its result."""
    result, spec = run.result(), run.spec()
    assert result is not None, "the result files come after the result"
    drawn = curves(run.events())
    if not (run.path / METRICS_FILE).exists():
        run.write_bytes(METRICS_FILE, table(drawn).encode())
    if not (run.path / LOSS_PLOT).exists():
        run.write_bytes(LOSS_PLOT, draw(drawn, spec, result))


def draw(drawn: Mapping[str, Curve], spec: RunSpec, result: RunResult) -> bytes:
    """Return the plot as PNG bytes. Needs no display and leaves pyplot's state alone."""
    figure = Figure(figsize=SIZE_INCHES, dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    trained, validated = (drawn.get(name, []) for name in ("train_loss", "full_valid_loss"))
    losses = [loss for _, loss in (*trained, *validated)]
    if min(losses, default=0) > 0 and max(losses) / min(losses) >= LOG_FROM:
        axes.set_yscale("log")
    _draw_training(axes, trained)
    if validated:
        axes.plot(*zip(*validated, strict=True), "o-", color=_ORANGE, linewidth=1.4, markersize=4.5, label="validation")
    _draw_best(axes, drawn, result)
    _dress(axes)
    _title(axes, spec, result)
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()


def smoothed(values: Sequence[float], reach: int) -> list[float]:
    """Return for each value the mean of those up to ``reach`` places away on either side."""
    sums = [0.0, *accumulate(values)]
    spans = [(max(0, place - reach), min(len(values), place + reach + 1)) for place in range(len(values))]
    return [(sums[end] - sums[start]) / (end - start) for start, end in spans]


def _draw_training(axes: Axes, curve: Curve) -> None:
    steps, losses = [step for step, _ in curve], [loss for _, loss in curve]
    axes.plot(steps, losses, color=_BLUE, alpha=0.35, linewidth=0.8, label="training, each step")
    reach = max(1, len(losses) // SMOOTHED_OVER)
    if axes.get_yscale() == "log":  # the mean that the eye sees on this axis
        averages = [math.exp(mean) for mean in smoothed([math.log(loss) for loss in losses], reach)]
    else:
        averages = smoothed(losses, reach)
    axes.plot(steps, averages, color=_BLUE, linewidth=2.2, label="training, smoothed")


def _draw_best(axes: Axes, drawn: Mapping[str, Curve], result: RunResult) -> None:
    """Mark the best checkpoint on the curve that decided it."""
    step = int(result.metrics["step"])
    losses = dict(drawn.get("full_valid_loss") or drawn.get("train_loss", []))
    axes.axvline(step, color=_INK, linewidth=0.8, linestyle=(0, (4, 4)), zorder=0)
    if step in losses:
        label = f"best checkpoint: {result.best_checkpoint}, loss {losses[step]:.3g}"
        axes.plot([step], [losses[step]], "*", markersize=15, color=_INK, markeredgecolor="white", label=label)


def _dress(axes: Axes) -> None:
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color=_GREY, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_GREY)
    axes.tick_params(colors=_INK, length=0)
    axes.legend(frameon=False, fontsize="small", labelcolor=_INK)


def _title(axes: Axes, spec: RunSpec, result: RunResult) -> None:
    numbers = result.hyperparameters
    epochs = "1 epoch" if numbers["n_epochs"] == 1 else f"{numbers['n_epochs']} epochs"
    facts = [
        f"{result.steps} steps ({epochs} of batch {numbers['batch_size']})",
        f"rate {numbers['learning_rate']:.2g}",
        f"{result.trained_tokens:,} tokens",
        f"{math.ceil(result.seconds):,} s",
        f"seed {spec.seed}",
    ]
    axes.set_title(f"{spec.method} on {spec.base.name}", loc="left", pad=24, color=_INK, fontweight="bold")
    axes.text(0, 1.025, " · ".join(facts), transform=axes.transAxes, color=_INK, fontsize="small")
