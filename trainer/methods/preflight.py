"""The preflight of a run, in the child: faults, tokens, the mask, and a dry run on the longest rows."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from statistics import median
from threading import Event as Flag
from typing import Any, Final

import torch

from trainer.data.containers import read_lines
from trainer.data.file_report import inspect_files
from trainer.methods import base_model, data_sets
from trainer.methods.endings import RunEnded, SpecRefused
from trainer.methods.hyperparameters import Hyperparameters, pack_length, resolve
from trainer.methods.launch import read_spec
from trainer.methods.rendering import Renderer
from trainer.methods.tally import Tally, tally
from trainer.run_directory import RunDirectory
from trainer.run_spec import RunSpec

DRY_STEPS: Final = 3
"""The first warms up; the others are timed."""

Json = Mapping[str, Any]
Train = Callable[[RunDirectory, RunSpec, Flag], None]
"""``train`` of a method's page."""


@dataclass(slots=True)
class PreflightReport:
    """The content of ``check.json``; fields that the preflight did not come to are None."""

    ok: bool = False
    """Whether the run may start."""
    reason: str | None = None
    """Why not, unless a file has faults: the spec, the base, the warm start, or the dry run."""
    renderer_sha256: str | None = None
    training: Json | None = None
    """The ``FileReport`` of the file, and under ``tokens`` its ``Tally``."""
    validation: Json | None = None
    hyperparameters: Json | None = None
    """With every "auto" resolved; this and the estimate are None where a file has faults."""
    estimate: Json | None = None


def write_preflight(run: RunDirectory, train: Train) -> None:
    """Write ``check.json``; where no fault is found, ``train`` runs for ``DRY_STEPS`` steps on the longest rows."""
    report = PreflightReport()
    try:
        _judge(run, train, report)
    except (RunEnded, OSError) as error:
        report.ok, report.reason = False, str(error)
    run.write_preflight(asdict(report))


def _judge(run: RunDirectory, train: Train, report: PreflightReport) -> None:
    spec = read_spec(run)
    if 0 < (found := torch.cuda.device_count()) < spec.processes:
        raise SpecRefused(
            f"{spec.processes} processes need a GPU each, and there are {found}: start the server with fewer "
            "--train-processes"
        )
    renderer = Renderer(spec.base)
    report.renderer_sha256 = renderer.sha256
    training, validation = inspect_files(spec.training_file, spec.validation_file, spec.method)
    counted = tally(spec.training_file, spec, renderer, training)
    report.training = training.to_json() | {"tokens": counted.to_json()}
    if spec.validation_file is not None and validation is not None:
        held_out = tally(spec.validation_file, spec, renderer, validation)
        report.validation = validation.to_json() | {"tokens": held_out.to_json()}
    if training.ok and (validation is None or validation.ok):
        is_packed = spec.packing and spec.method.traits.packs
        packs = pack_length(counted.longest, data_sets.limit(spec, renderer)) if is_packed else 0
        rows, longest = (math.ceil(counted.tokens / packs), packs) if packs else (counted.sequences, counted.longest)
        numbers = resolve(spec, rows=rows, width=base_model.width(spec), longest=longest)
        report.hyperparameters = asdict(numbers)
        share = numbers.batch_size // spec.processes
        chosen = counted.longest_lines(share, share * packs)
        report.estimate = _dry_run(run, spec, numbers, counted, chosen, train)
        report.reason = report.estimate.get("reason")
        report.ok = report.estimate["fits"]


def _dry_run(
    run: RunDirectory, spec: RunSpec, numbers: Hyperparameters, counted: Tally, chosen: set[int], train: Train
) -> Json:
    """Train on the ``chosen`` lines; return an estimate of the whole run. ``fits`` False: the GPU ran out of memory.

    For a run of several processes it trains one process's share; the estimate is that many times as fast.

    Raises:
        RunEnded: the run would end in this way at its first steps.
    """
    dry = RunDirectory(run.scratch / "dry")
    shutil.rmtree(dry.path, ignore_errors=True)
    dry.path.mkdir(parents=True)
    rows = dry.path / "longest.jsonl"
    with rows.open("wb") as file:
        longest = (line.raw for line in read_lines(spec.training_file) if line.number in chosen)
        file.writelines(b" ".join(raw.splitlines()) + b"\n" for raw in longest)  # an array's element has line ends
    share = numbers.batch_size // spec.processes
    steps = {"n_epochs": DRY_STEPS, "checkpoint_steps": DRY_STEPS, "batch_size": share, "processes": 1}
    try:
        train(dry, spec.model_copy(update={"training_file": rows, "validation_file": None, **steps}), Flag())
    except torch.cuda.OutOfMemoryError as error:
        reason = f"the longest batch does not fit into memory: {str(error).splitlines()[0]}"
        return {"fits": False, "reason": reason, "steps": numbers.steps}
    result = dry.result()
    assert result is not None, "a run that ends without an error has a result"
    paces = [step.data["tokens_per_second"] for step in dry.events() if "tokens_per_second" in step.data]
    pace: float = median(paces[1:]) * spec.processes
    shutil.rmtree(dry.path)
    return {
        "fits": True,
        "steps": numbers.steps,
        "tokens_per_second": pace,
        "seconds": counted.tokens * numbers.n_epochs / pace,
        "seconds_per_million_tokens": 1e6 / pace,
        "peak_memory_bytes": result.peak_memory_bytes,
    }
