"""From a job's row to the spec of its run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainer.jobs.job import Job, Json
from trainer.options import TrainingOptions
from trainer.run_spec import RunSpec


@dataclass(frozen=True, slots=True)
class RunInputs:
    """Paths of the files that a job names, and the server's resources for a run."""

    base: Path
    training_file: Path
    validation_file: Path | None
    warm_start: Path | None
    threads: int
    processes: int


def run_spec(job: Job, inputs: RunInputs) -> RunSpec:
    """Return the spec of the child process of ``job``.

    Raises:
        ValueError: the job is of a release that has other methods or options.
    """
    stated = {**job.extension, **job.hyperparameters, "seed": job.seed}
    options = {name: stated[name] for name in TrainingOptions.model_fields if stated.get(name) is not None}
    return RunSpec.from_json(options | {"method": job.method["type"]} | asdict(inputs))


def resolved_method(method: Json, resolved: Mapping[str, Any]) -> dict[str, Any]:
    """Return OpenAI's ``method`` with each "auto" replaced by its value in ``resolved``."""
    name = method["type"]
    hyperparameters = {key: resolved.get(key, value) for key, value in method[name]["hyperparameters"].items()}
    return {**method, name: {**method[name], "hyperparameters": hyperparameters}}


def adapter_name(job: Job) -> str:
    """Return the adapter that ``job`` makes versions of: the one it names, else its suffix, else its id."""
    return str(job.extension.get("adapter") or job.suffix or job.id)
