"""Checkpoints made from the folders that transformers' Trainer saves: complete or absent."""

import json
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final, Protocol

import torch
from safetensors.torch import load_file

from adapters.lora.canonical_form import CanonicalForm, write
from adapters.lora.stored_lora import LinearSum, StoredLora
from adapters.storage.disk import fsync_directory
from adapters.storage.manifest import WEIGHTS_FILE
from trainer.endings import NotFinite
from trainer.methods import base_model
from trainer.run_directory import COMPLETE, Marker, RunCheckpoint, RunDirectory
from trainer.run_spec import RunSpec
from trainer.training_method import TrainingMethod

REFERENCE: Final = "ref"
"""TRL's copy of the adapter of a warm start. It is made again at each start; if it were saved, transformers would
restore it alone, and the trained adapter would start anew."""


class Export(Protocol):
    """Makes an adapter of what the Trainer saved of a checkpoint."""

    def __call__(self, model: Any, staged: RunCheckpoint, spec: RunSpec) -> Mapping[str, float]:
        """Write ``staged.adapter`` from ``staged.state`` or ``model``; return metrics of the checkpoint.

        Raises:
            NotFinite: a weight is not a finite number.
        """


def complete(
    run: RunDirectory, saved: Path, marker: Marker, spec: RunSpec, model: Any, export: Export
) -> RunCheckpoint:
    """Move the Trainer's folder ``saved`` into place as a checkpoint, with the adapter that ``export`` makes.

    The checkpoint's name appears with the last rename; after it the states of older checkpoints are deleted, and their
    whole models if this one has its own. The last checkpoint has no state: nothing goes on from it, and its user is
    waiting.

    Raises:
        NotFinite: a weight is not a finite number; there is no checkpoint of this step.
    """
    target = run.checkpoint_path(marker.step)
    staged = target.with_name(f".{target.name}")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    made = RunCheckpoint(staged, marker)
    saved.rename(made.state)
    marker = replace(marker, metrics={**marker.metrics, **export(model, made, spec)})
    if marker.last:
        shutil.rmtree(made.state)
    else:
        shutil.rmtree(made.state / REFERENCE, ignore_errors=True)
    (staged / COMPLETE).write_text(json.dumps(asdict(marker)))
    _sync(staged)
    staged.rename(target)
    fsync_directory(target.parent)
    for older in run.checkpoints():
        if older.step < marker.step:
            shutil.rmtree(older.state, ignore_errors=True)
    delete_older_models(run)
    return RunCheckpoint(target, marker)


def delete_older_models(run: RunDirectory) -> None:
    """Delete every whole model but the newest: a checkpoint gets one only if it is the best so far."""
    for older in [made for made in run.checkpoints() if made.model.exists()][:-1]:
        shutil.rmtree(older.model)


def best_of(checkpoints: Sequence[RunCheckpoint], method: TrainingMethod) -> RunCheckpoint:
    """Return the checkpoint that the validation judges best, the first of several; without any, the last."""
    metric = method.traits.judged_by
    validated = [checkpoint for checkpoint in checkpoints if metric in checkpoint.marker.metrics]
    sign = -1 if method.draws else 1  # a reward is best at its largest
    return min(validated, key=lambda each: sign * each.marker.metrics[metric], default=checkpoints[-1])


def export_adapter(model: Any, staged: RunCheckpoint, spec: RunSpec) -> Mapping[str, float]:
    """Export the adapter that was trained."""
    export(staged.state, staged.adapter, staged.step, spec, base_model.linear_modules(model))
    return {}


def export(saved: Path, adapter: Path, step: int, spec: RunSpec, modules: Collection[str]) -> None:
    """Write the adapter in canonical form: no path of this machine in it, the same bytes for the same weights."""
    if not all(bool(torch.isfinite(tensor).all()) for tensor in load_file(saved / WEIGHTS_FILE).values()):
        raise NotFinite("a weight of the adapter", step)
    lora = StoredLora.open(saved)
    form = CanonicalForm.of(lora, modules, base_model.export_dtype(spec))
    write(adapter, replace(form, declared_base=spec.base.name), LinearSum([(lora, 1.0)]).read)


def _sync(folder: Path) -> None:
    """Make every file and name under ``folder`` durable."""
    for path, _, names in os.walk(folder):
        for name in names:
            with Path(path, name).open("rb") as file:
                os.fsync(file.fileno())
        fsync_directory(Path(path))
