"""What a run would meet, before it is queued: faults, tokens, the mask, and a dry run on the longest rows."""

from __future__ import annotations

import heapq
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from threading import Event as Flag
from typing import Any, Final

import torch

from trainer.data import lines
from trainer.data.check import FileReport, check_files
from trainer.data.faults import FaultKind, LineFault
from trainer.methods import base_model, data_sets
from trainer.methods.hyperparameters import Hyperparameters, pack_length, resolve
from trainer.methods.rendering import Renderer
from trainer.run_directory import RunDirectory
from trainer.run_spec import RunSpec

PREVIEWED: Final = 3
DRY_STEPS: Final = 3
"""The first warms up; the others are timed."""
_RENDERED: Final = frozenset({FaultKind.TEMPLATE_REFUSES, FaultKind.TEMPLATE_REWRITES, FaultKind.TOO_MANY_TOKENS})

Train = Callable[[RunDirectory, RunSpec, Flag], None]


@dataclass(slots=True)
class Tally:
    """The tokens of a file."""

    sequences: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    longest: int = 0
    without_stop: list[int] = field(default_factory=list)
    """Lines of which a trained answer does not end in a token that the server stops on: EOS would not be learned."""
    without_loss: list[int] = field(default_factory=list)
    """Lines of which no token is trained."""
    too_long: list[int] = field(default_factory=list)
    """Lines with more tokens than fit; they are refused, or left out, never cut."""
    lengths: list[tuple[int, int]] = field(default_factory=list)
    """Tokens and line of each row."""
    preview: list[list[tuple[str, bool]]] = field(default_factory=list)

    def add(self, line: int, made: list[data_sets.Columns], renderer: Renderer) -> None:
        """Count one row."""
        for sequence in made:
            answer = data_sets.answer(sequence)
            self.sequences += 1
            self.tokens += data_sets.tokens(sequence)
            self.trained_tokens += len(answer)
            if not answer:
                self.without_loss.append(line)
            elif not renderer.stops(answer):
                self.without_stop.append(line)
            if len(self.preview) < PREVIEWED:
                self.preview.append(data_sets.segments(sequence, renderer))
        longest = max(map(data_sets.tokens, made))
        self.longest = max(self.longest, longest)
        self.lengths.append((longest, line))

    def to_json(self) -> Mapping[str, Any]:
        """The counts as JSON values; ``preview`` is a list of [text, is trained] for each of the first sequences."""
        names = (
            "sequences",
            "tokens",
            "trained_tokens",
            "longest",
            "without_stop",
            "without_loss",
            "too_long",
            "preview",
        )
        return {name: getattr(self, name) for name in names}


def check(run: RunDirectory, train: Train) -> bool:
    """Write ``check.json`` and return whether the run may start.

    ``train`` is the method's own; it is tried for ``DRY_STEPS`` steps on the longest rows where no fault was found.

    Raises:
        OSError: a file, or the base's tokenizer, cannot be read.
        BaseRefused: the base has no chat template.
    """
    spec = run.spec()
    renderer = Renderer(spec.base)
    training, validation = check_files(spec.training_file, spec.validation_file, spec.method)
    tally = _tally(spec.training_file, spec, renderer, training)
    report: dict[str, Any] = {"training": training.to_json() | {"tokens": tally.to_json()}, "validation": None}
    if spec.validation_file is not None and validation is not None:
        held_out = _tally(spec.validation_file, spec, renderer, validation)
        report["validation"] = validation.to_json() | {"tokens": held_out.to_json()}
    ok = training.ok and (validation is None or validation.ok)
    if ok:
        rows, longest = tally.sequences, tally.longest
        if spec.packing:
            longest = pack_length(tally.longest, data_sets.limit(spec, renderer))
            rows = math.ceil(tally.tokens / longest)
        numbers = resolve(spec, rows=rows, width=base_model.width(spec), longest=longest)
        report["hyperparameters"] = numbers.to_json()
        report["estimate"] = estimate = _dry_run(run, spec, numbers, tally, train)
        ok = estimate["fits"]
    run.write("check.json", {"ok": ok, "renderer_sha256": renderer.sha256, **report})
    return ok


def _tally(path: Path, spec: RunSpec, renderer: Renderer, report: FileReport) -> Tally:
    """Count a file's tokens, and add to its report what only the renderer finds."""
    tally = Tally()
    for line, made, faults in data_sets.read(path, renderer, data_sets.limit(spec, renderer)):
        if made:
            tally.add(line, made, renderer)
        tally.too_long += [line] * _is_long(faults)
        for fault in faults:
            if fault.kind in _RENDERED and not (spec.drop_long and _is_long(faults)):
                report.refuse(fault)
    return tally


def _is_long(faults: list[LineFault]) -> bool:
    return any(fault.kind is FaultKind.TOO_MANY_TOKENS for fault in faults)


def _dry_run(run: RunDirectory, spec: RunSpec, numbers: Hyperparameters, tally: Tally, train: Train) -> dict[str, Any]:
    """Train on the longest batch and tell what the whole would take; ``fits`` False: the GPU ran out of memory."""
    dry = RunDirectory(run.scratch / "dry")
    shutil.rmtree(dry.path, ignore_errors=True)
    dry.path.mkdir(parents=True)
    rows = dry.path / "longest.jsonl"
    longest = {line for _, line in heapq.nlargest(numbers.batch_size, tally.lengths)}
    rows.write_bytes(b"".join(line.raw + b"\n" for line in lines.read(spec.training_file) if line.number in longest))
    short = replace(spec, training_file=rows, validation_file=None, n_epochs=DRY_STEPS, checkpoint_steps=DRY_STEPS)
    try:
        train(dry, replace(short, batch_size=numbers.batch_size), Flag())
    except torch.cuda.OutOfMemoryError as error:
        return {"fits": False, "reason": str(error).splitlines()[0], "steps": numbers.steps}
    result = dry.result()
    assert result is not None
    paces = [told.data["tokens_per_second"] for told in dry.events() if "tokens_per_second" in told.data][1:]
    shutil.rmtree(dry.path)
    pace = median(paces)
    return {
        "fits": True,
        "steps": numbers.steps,
        "tokens_per_second": pace,
        "seconds": tally.tokens * numbers.n_epochs / pace,
        "seconds_per_million_tokens": 1e6 / pace,
        "peak_memory_bytes": result.peak_memory_bytes,
    }
