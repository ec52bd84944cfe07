"""From a job's row to the spec of its run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from trainer.jobs.job import Job, Json
from trainer.run_spec import RunSpec, TrainingMethod

RUN_EXTENSIONS: Final = frozenset(
    {"rank", "alpha", "targets", "quantization", "max_length", "drop_long", "packing", "patience", "checkpoint_steps"}
)
"""Our own fields of a job that decide which weights come out."""

_HYPERPARAMETERS: Final = frozenset({field.name for field in fields(RunSpec)})


@dataclass(frozen=True, slots=True)
class Ingredients:
    """Where the things lie that a job names."""

    base: Path
    training: Path
    validation: Path | None
    warm_start: Path | None
    threads: int
    processes: int


def run_spec(job: Job, given: Ingredients) -> RunSpec:
    """Return what the child process of ``job`` is told."""
    said: dict[str, Any] = {name: value for name, value in job.hyperparameters.items() if name in _HYPERPARAMETERS}
    said |= {name: value for name, value in job.extension.items() if name in RUN_EXTENSIONS and value is not None}
    if isinstance(said.get("targets"), list):
        said["targets"] = tuple(said["targets"])
    return RunSpec(
        base=given.base,
        training_file=given.training,
        validation_file=given.validation,
        warm_start=given.warm_start,
        method=TrainingMethod(job.method["type"]),
        seed=job.seed,
        threads=given.threads,
        processes=given.processes,
        **said,
    )


def resolved_method(method: Json, numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Return OpenAI's ``method`` with each "auto" replaced by what it came to in ``numbers``."""
    kind = method["type"]
    hyperparameters = {name: numbers.get(name, value) for name, value in method[kind]["hyperparameters"].items()}
    return {**method, kind: {**method[kind], "hyperparameters": hyperparameters}}


def adapter_name(job: Job) -> str:
    """Return the adapter that ``job`` makes versions of: the one it names, else its suffix, else one of its own."""
    return str(job.extension.get("adapter") or job.suffix or job.id)
