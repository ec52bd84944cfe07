"""From what transformers' Trainer saves to a checkpoint that is whole or absent."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file, save_file

from adapters.disk import fsync_directory
from adapters.manifest import CONFIG_FILE, WEIGHTS_FILE
from trainer.methods.endings import NotFinite
from trainer.run_directory import COMPLETE, Checkpoint, Marker, RunDirectory

REFERENCE: Final = "ref"
"""TRL's copy of the adapter that a warm start brings. It is made again at each start; saved, it would be all that
transformers restores, and the trained adapter would start anew."""


def complete(run: RunDirectory, saved: Path, marker: Marker, dtype: torch.dtype, base_name: str) -> Checkpoint:
    """Move the Trainer's folder ``saved`` into place as a checkpoint, with the adapter exported in ``dtype``.

    Until the last rename nothing carries the checkpoint's name; after it the states of older checkpoints go. The last
    checkpoint has no state: nothing goes on from it, and its user is waiting.

    Raises:
        NotFinite: the step left weights that are no finite numbers; there is no checkpoint of it.
    """
    target = run.checkpoint_path(marker.step)
    staged = target.with_name(f".{target.name}")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    saved.rename(staged / "state")
    _export(staged / "state", staged / "adapter", marker.step, dtype, base_name)
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
    return Checkpoint(target, marker)


def _export(saved: Path, adapter: Path, step: int, dtype: torch.dtype, base_name: str) -> None:
    """Write the two files of a PEFT directory: no path of this machine in them, the same bytes for the same weights."""
    adapter.mkdir()
    tensors = {name: tensor.to(dtype).contiguous() for name, tensor in load_file(saved / WEIGHTS_FILE).items()}
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
        raise NotFinite("a weight of the adapter", step)
    save_file(tensors, adapter / WEIGHTS_FILE, {"format": "pt"})
    config = json.loads((saved / CONFIG_FILE).read_bytes())
    config |= {"base_model_name_or_path": base_name, "inference_mode": True}
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()  # PEFT keeps a set, whose order changes from run to run
    (adapter / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True))


def _sync(folder: Path) -> None:
    """Make every file and name under ``folder`` durable."""
    for path, _, names in os.walk(folder):
        for name in names:
            with Path(path, name).open("rb") as file:
                os.fsync(file.fileno())
        fsync_directory(Path(path))
