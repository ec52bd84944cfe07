"""From a job's row to the spec of its run."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from trainer.jobs.job import Job
from trainer.run_spec import Method, RunSpec

RUN_EXTENSIONS: Final = frozenset(
    {"rank", "alpha", "targets", "max_length", "drop_long", "packing", "patience", "checkpoint_steps"}
)
"""Our own fields of a job that decide which weights come out."""

_HYPERPARAMETERS: Final = frozenset({field.name for field in fields(RunSpec)})


def run_spec(job: Job, *, base: Path, training: Path, validation: Path | None, threads: int) -> RunSpec:
    """Return what the child process of ``job`` is told.

    Args:
        job: a job that passed validation.
        base: directory of the base model that serves.
        training, validation: the files' contents.
        threads: CPU threads of the child.
    """
    given: dict[str, Any] = {name: value for name, value in job.hyperparameters.items() if name in _HYPERPARAMETERS}
    given |= {name: value for name, value in job.extension.items() if name in RUN_EXTENSIONS and value is not None}
    if isinstance(given.get("targets"), list):
        given["targets"] = tuple(given["targets"])
    return RunSpec(
        base=base,
        training_file=training,
        validation_file=validation,
        method=Method(job.method["type"]),
        seed=job.seed,
        threads=threads,
        **given,
    )


def adapter_name(job: Job) -> str:
    """Return the adapter that ``job`` makes a version of: the one it names, else its suffix, else one of its own."""
    return str(job.extension.get("adapter") or job.suffix or job.id)
