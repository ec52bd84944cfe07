"""Checkpoints made from the folders that transformers' Trainer saves: complete or absent."""

import json
import os
import shutil
from collections.abc import Collection
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

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

REFERENCE: Final = "ref"
"""TRL's copy of the adapter of a warm start. It is made again at each start; if it were saved, transformers would
restore it alone, and the trained adapter would start anew."""


def complete(run: RunDirectory, saved: Path, marker: Marker, spec: RunSpec, modules: Collection[str]) -> RunCheckpoint:
    """Move the Trainer's folder ``saved`` into place as a checkpoint, with the adapter exported.

    ``modules`` are the base's linear modules.

    The checkpoint's name appears with the last rename; after it the states of older checkpoints are deleted. The last
    checkpoint has no state: nothing goes on from it, and its user is waiting.

    Raises:
        NotFinite: a weight is not a finite number; there is no checkpoint of this step.
    """
    target = run.checkpoint_path(marker.step)
    staged = target.with_name(f".{target.name}")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    saved.rename(staged / "state")
    export(staged / "state", staged / "adapter", marker.step, spec, modules)
    if marker.last:
        shutil.rmtree(staged / "state")
    else:
        shutil.rmtree(staged / "state" / REFERENCE, ignore_errors=True)
    (staged / COMPLETE).write_text(json.dumps(asdict(marker)))
    _sync(staged)
    staged.rename(target)
    fsync_directory(target.parent)
    for older in run.checkpoints():
        if older.step < marker.step:
            shutil.rmtree(older.state, ignore_errors=True)
    return RunCheckpoint(target, marker)


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
