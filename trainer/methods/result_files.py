"""Result files of a finished run: its metrics as CSV, and a plot of its loss."""

from __future__ import annotations

from trainer.methods import loss_plot
from trainer.methods.curves import curves, table
from trainer.run_directory import LOSS_PLOT, METRICS_FILE, RunDirectory


def write(run: RunDirectory) -> None:
    """Write those result files that ``run`` does not have yet; each is complete or absent. ``run`` has its result."""
    result, spec = run.result(), run.spec()
    assert result is not None, "the result files come after the result"
    drawn = curves(run.events())
    if not (run.path / METRICS_FILE).exists():
        run.write_bytes(METRICS_FILE, table(drawn).encode())
    if not (run.path / LOSS_PLOT).exists():
        run.write_bytes(LOSS_PLOT, loss_plot.draw(drawn, spec, result))
