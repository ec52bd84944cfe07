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
from datasets import Dataset

from adapters.storage.disk import is_no_space
from trainer.endings import RunEnded, SpecRefused
from trainer.methods import base_model, data_sets, whole_model
from trainer.methods.hyperparameters import DrawnHyperparameters, Hyperparameters, pack_length, resolve, teaching
from trainer.methods.launch import read_spec
from trainer.methods.teacher import held_out
from trainer.rendering import token_rows
from trainer.run_directory import RunDirectory
from trainer.run_spec import RunSpec

DRY_STEPS: Final = 3
"""The first warms up; the others are timed."""

Json = Mapping[str, Any]
Train = Callable[[RunDirectory, RunSpec, Flag], None]
"""``train`` of a method's module."""


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
        if isinstance(error, OSError) and is_no_space(error, run.path):
            raise
        report.ok, report.reason = False, str(error)
    run.write_preflight(asdict(report))


def _judge(run: RunDirectory, train: Train, report: PreflightReport) -> None:
    spec = read_spec(run)
    if 0 < (found := torch.cuda.device_count()) < spec.processes:
        raise SpecRefused(
            f"{spec.processes} processes need a GPU each, and there are {found}: start the server with fewer "
            "--train-processes"
        )
    rendering = data_sets.report(run)
    report.renderer_sha256, report.reason = rendering.renderer_sha256, rendering.reason
    report.training, report.validation = rendering.training, rendering.validation
    taught = teaching(spec) if spec.method.traits.is_taught else None
    if rendering.ok and rendering.training is not None:
        counted = rendering.training["tokens"]
        if taught is not None:
            counted = _with_answers(spec, counted, taught, rendering.most_tokens)
        is_packed = spec.packing and spec.method.traits.packs
        packs = pack_length(counted["longest"], rendering.most_tokens) if is_packed else 0
        sequences, longest = counted["sequences"], counted["longest"]
        if packs:
            sequences, longest = math.ceil(counted["tokens"] / packs), packs
        numbers = resolve(spec, rows=sequences, width=base_model.width(spec), longest=longest)
        report.hyperparameters = asdict(numbers)
        share = _tried(spec, numbers)
        rows = _longest(data_sets.load(run, token_rows.TRAINING), share, share * packs)
        needed = whole_model.needs(spec, run.path) if spec.method.trains_weights else {}
        report.estimate = {**_dry_run(run, spec, numbers, rows, train, _tokens(counted, numbers)), **needed}
        report.reason = report.estimate.get("reason")
        report.ok = report.estimate["fits"]


def _with_answers(spec: RunSpec, counted: Json, taught: Json, most_tokens: int) -> Json:
    """Return the counts of a file with its teacher's answers, as if none ended before its limit."""
    questions = counted["sequences"]
    if spec.validation_file is None:
        questions -= len(held_out(questions, spec.seed))
    answer = min(taught["max_completion_tokens"], most_tokens - counted["longest"])
    sequences = questions * taught["samples"]
    tokens = round(sequences * (counted["tokens"] / counted["sequences"] + answer))
    return {"sequences": sequences, "tokens": tokens, "longest": counted["longest"] + answer}


def _tried(spec: RunSpec, numbers: Hyperparameters) -> int:
    """Return the rows of a batch that is tried: a process's share.

    Of drawn answers those to one prompt where there is no GPU, whose memory a whole batch might not fit: they have full
    length, and all of a batch would take minutes.
    """
    if isinstance(numbers, DrawnHyperparameters) and not torch.cuda.is_available():
        return 1
    return numbers.batch_size // spec.processes


def _tokens(counted: Json, numbers: Hyperparameters) -> int:
    """Return the tokens that go through the model in a run; drawn answers count as if none ended before its limit.

    The time in which the server draws them is not estimated.
    """
    tokens = int(counted["tokens"])
    if isinstance(numbers, DrawnHyperparameters):
        prompts = numbers.steps * numbers.batch_size
        mean: float = tokens / counted["sequences"] + numbers.max_completion_tokens
        return round(prompts * numbers.samples * mean)
    return tokens * numbers.n_epochs


def _longest(rows: Dataset, least: int, tokens: int) -> Dataset:
    """Return the longest rows: ``least`` of them, more until they have ``tokens``; all if there are too few."""
    lengths = rows[token_rows.TOKENS][:]
    chosen: list[int] = []
    gathered = 0
    for index in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        if len(chosen) >= least and gathered >= tokens:
            break
        chosen.append(index)
        gathered += lengths[index]
    return rows.select(sorted(chosen))


def _dry_run(
    run: RunDirectory, spec: RunSpec, numbers: Hyperparameters, rows: Dataset, train: Train, tokens: int
) -> Json:
    """Train on ``rows``; return an estimate of the whole run, of so many ``tokens``.

    ``fits`` False: the GPU ran out of memory.

    For a run of several processes it trains one process's share; the estimate is that many times as fast.

    Raises:
        RunEnded: the run would end in this way at its first steps.
    """
    dry = RunDirectory(run.scratch / "dry")
    shutil.rmtree(dry.path, ignore_errors=True)
    dry.token_rows.mkdir(parents=True)
    with token_rows.writer(dry.token_rows / token_rows.TRAINING) as writer:
        for row in rows.remove_columns(token_rows.TOKENS):
            writer.write(row)
    dry.write_rendering(run.rendering())
    share = _tried(spec, numbers)
    steps = {"n_epochs": DRY_STEPS, "checkpoint_steps": DRY_STEPS, "batch_size": share, "processes": 1}
    try:
        dry.write_spec(shorter := spec.model_copy(update={"validation_file": None, "is_dry": True, **steps}))
        train(dry, shorter, Flag())
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
        "seconds": tokens / pace,
        "seconds_per_million_tokens": 1e6 / pace,
        "peak_memory_bytes": result.peak_memory_bytes,
    }
