"""The token ids of a run's files as the data sets that TRL's trainers take; rendered by ``trainer.rendering``."""

import pyarrow as pa
from datasets import Dataset

from trainer.data.faults import LineFault
from trainer.endings import BaseRefused, DataRefused
from trainer.rendering.report import RenderingReport
from trainer.run_directory import RunDirectory


def report(run: RunDirectory) -> RenderingReport:
    """Return the report of the rendering, which ended before."""
    return RenderingReport(**run.rendering())


def check(rendering: RenderingReport, run: RunDirectory) -> None:
    """Check that the run's files were rendered.

    Raises:
        BaseRefused: the base model or its chat template cannot be read.
        DataRefused: a file has faults.
    """
    if rendering.reason is not None:
        raise BaseRefused(rendering.reason)
    spec = run.spec()
    for path, file in ((spec.training_file, rendering.training), (spec.validation_file, rendering.validation)):
        if path is not None and file is not None and not file["ok"]:
            raise DataRefused(path.name, [LineFault(**fault) for fault in file["faults"]])


def load(run: RunDirectory, name: str) -> Dataset:
    """Return the rows in the file ``name`` of the run's token rows, mapped into memory.

    Raises:
        OSError: there is no such file.
    """
    with pa.memory_map(str(run.token_rows / name)) as source, pa.ipc.open_stream(source) as stream:
        return Dataset(stream.read_all())
