"""What a run would meet, before it is queued: faults, tokens, the mask, and a dry run on the longest rows."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from statistics import median
from threading import Event as Flag
from typing import Any, Final

import torch

from trainer.data import lines
from trainer.data.file_report import inspect_files
from trainer.methods import base_model, data_sets
from trainer.methods.endings import RunEnded, SpecRefused
from trainer.methods.hyperparameters import Hyperparameters, pack_length, resolve
from trainer.methods.rendering import Renderer
from trainer.methods.tally import Tally, tally
from trainer.run_directory import RunDirectory
from trainer.run_spec import RunSpec, TrainingMethod

DRY_STEPS: Final = 3
"""The first warms up; the others are timed."""

Json = Mapping[str, Any]
Train = Callable[[RunDirectory, RunSpec, Flag], None]
"""A method's own ``train``."""


@dataclass(slots=True)
class Verdict:
    """What ``check.json`` says, as far as the check came."""

    ok: bool = False
    """Whether the run may start."""
    reason: str | None = None
    """Why not, where it is no fault in a file: the spec, the base, the warm start, or the dry run."""
    renderer_sha256: str | None = None
    training: Json | None = None
    """The file's report, and under ``tokens`` its tally."""
    validation: Json | None = None
    hyperparameters: Json | None = None
    """With every "auto" resolved; from here on None where a file has faults."""
    estimate: Json | None = None


def write_preflight(run: RunDirectory, train: Train) -> None:
    """Write ``check.json``; ``train`` is tried for ``DRY_STEPS`` steps on the longest rows where no fault was found."""
    verdict = Verdict()
    try:
        _judge(run, train, verdict)
    except (RunEnded, OSError) as error:
        verdict.ok, verdict.reason = False, str(error)
    run.write_preflight(asdict(verdict))


def _judge(run: RunDirectory, train: Train, verdict: Verdict) -> None:
    spec = _spec(run)
    _check_devices(spec)
    renderer = Renderer(spec.base)
    verdict.renderer_sha256 = renderer.sha256
    training, validation = inspect_files(spec.training_file, spec.validation_file, spec.method)
    counted = tally(spec.training_file, spec, renderer, training)
    verdict.training = training.to_json() | {"tokens": counted.to_json()}
    if spec.validation_file is not None and validation is not None:
        held_out = tally(spec.validation_file, spec, renderer, validation)
        verdict.validation = validation.to_json() | {"tokens": held_out.to_json()}
    if training.ok and (validation is None or validation.ok):
        packs = _pack_tokens(spec, renderer, counted)
        rows, longest = (math.ceil(counted.tokens / packs), packs) if packs else (counted.sequences, counted.longest)
        numbers = resolve(spec, rows=rows, width=base_model.width(spec), longest=longest)
        verdict.hyperparameters = numbers.to_json()
        share = numbers.batch_size // spec.processes
        chosen = counted.longest_lines(share, share * packs)
        verdict.estimate = _dry_run(run, spec, numbers, counted, chosen, train)
        verdict.reason = verdict.estimate.get("reason")
        verdict.ok = verdict.estimate["fits"]


def _spec(run: RunDirectory) -> RunSpec:
    try:
        return run.spec()
    except ValueError as error:
        raise SpecRefused(str(error)) from error


def _check_devices(spec: RunSpec) -> None:
    found = torch.cuda.device_count()
    if 0 < found < spec.processes:
        raise SpecRefused(
            f"{spec.processes} processes need a GPU each, and there are {found}: start the server with fewer "
            "--train-processes"
        )


def _pack_tokens(spec: RunSpec, renderer: Renderer, counted: Tally) -> int:
    """Tokens in a pack; 0: rows stay apart."""
    if not spec.packing or spec.method is not TrainingMethod.SUPERVISED:
        return 0
    return pack_length(counted.longest, data_sets.limit(spec, renderer))


def _dry_run(
    run: RunDirectory, spec: RunSpec, numbers: Hyperparameters, counted: Tally, chosen: set[int], train: Train
) -> Json:
    """Train on the ``chosen`` lines and tell what the whole would take; ``fits`` False: the GPU ran out of memory.

    Of a run that several processes share, it is one process's part: together they count as so many times as fast.

    Raises:
        RunEnded: the run would end so at its first steps.
    """
    dry = RunDirectory(run.scratch / "dry")
    shutil.rmtree(dry.path, ignore_errors=True)
    dry.path.mkdir(parents=True)
    rows = dry.path / "longest.jsonl"
    with rows.open("wb") as file:
        file.writelines(line.raw + b"\n" for line in lines.read(spec.training_file) if line.number in chosen)
    short = replace(spec, training_file=rows, validation_file=None, n_epochs=DRY_STEPS, checkpoint_steps=DRY_STEPS)
    try:
        train(dry, replace(short, batch_size=numbers.batch_size // spec.processes, processes=1), Flag())
    except torch.cuda.OutOfMemoryError as error:
        reason = f"the longest batch does not fit into memory: {str(error).splitlines()[0]}"
        return {"fits": False, "reason": reason, "steps": numbers.steps}
    result = dry.result()
    assert result is not None, "a run that ends without an error has a result"
    pace = _pace(dry) * spec.processes
    shutil.rmtree(dry.path)
    return {
        "fits": True,
        "steps": numbers.steps,
        "tokens_per_second": pace,
        "seconds": counted.tokens * numbers.n_epochs / pace,
        "seconds_per_million_tokens": 1e6 / pace,
        "peak_memory_bytes": result.peak_memory_bytes,
    }


def _pace(dry: RunDirectory) -> float:
    """Tokens a second, of the steps behind the first."""
    paces: list[float] = [told.data["tokens_per_second"] for told in dry.events() if "tokens_per_second" in told.data]
    return median(paces[1:])
