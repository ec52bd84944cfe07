"""What a finished run leaves for people: its numbers as CSV, and its loss as a picture."""

from __future__ import annotations

from trainer.methods import loss_plot
from trainer.methods.curves import curves, table
from trainer.run_directory import LOSS_PLOT, METRICS_FILE, RunDirectory


def write(run: RunDirectory) -> None:
    """Write the files that ``run``, which has its result, does not have yet; each is whole or not there."""
    result, spec = run.result(), run.spec()
    assert result is not None, "the result files come after the result"
    drawn = curves(run.events())
    if not (run.path / METRICS_FILE).exists():
        run.write_bytes(METRICS_FILE, table(drawn).encode())
    if not (run.path / LOSS_PLOT).exists():
        run.write_bytes(LOSS_PLOT, loss_plot.draw(drawn, spec, result))
